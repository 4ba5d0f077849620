"""Real-time chunking: random prefixes in training, known prefixes and guidance at run time."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from scipy.stats import chisquare
from torch import nn

from flux_core.config import bind
from flux_core.errors import ConfigError
from flux_core.models import PrefixCache, flow_matching_loss, sample_actions
from flux_core.models.flow.sampling import sample_delays, with_clean_prefix
from flux_core.models.pi import PI0FlowMatching
from flux_core.rtc import RTCConfig, RTCTrainingConfig, guidance_weight, prefix_weights
from flux_train import recipes

HORIZON, DIM = 8, 14


def policy(kind: str = "pi05", **settings: Any) -> PI0FlowMatching:
    tree = recipes.small_pi05_model(action_horizon=HORIZON, width=32)
    grouped = settings.pop("actions_per_token", 1)
    width = dict(type="LinearProjector")
    tree |= dict(
        actions_per_token=grouped,
        action_in_proj=width | dict(in_dim=grouped * DIM, out_dim=32),
        action_out_proj=width | dict(in_dim=32, out_dim=grouped * DIM),
    )
    if kind == "pi0":
        expert = {k: v for k, v in tree["llm_expert"].items() if "adarms" not in k}
        state = width | dict(in_dim=DIM, out_dim=32)
        tree |= dict(type="PI0FlowMatching", llm_expert=expert, state_proj=state)
    torch.manual_seed(0)
    model = bind(PI0FlowMatching.Config, tree | settings, "model").build()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return model


@pytest.fixture(params=["pi0", "pi05"])
def observed(request: pytest.FixtureRequest) -> tuple[PI0FlowMatching, torch.Tensor, PrefixCache]:
    """A policy, a state and the cache of an observation."""
    model = policy(request.param)
    return model, torch.randn(2, DIM), encode(model)


def encode(model: PI0FlowMatching) -> PrefixCache:
    with torch.no_grad():
        return model.prefix(
            torch.randn(2, 1, 3, *model.config.vision_backbone.image_size),
            torch.ones(2, 1, dtype=torch.bool),
            torch.randint(4, 200, (2, 6)),
            torch.tensor([[True] * 6, [True] * 4 + [False] * 2]),
        )


def chunk() -> torch.Tensor:
    return torch.randn(2, HORIZON, DIM)


METHODS = {
    "prefix": RTCConfig(method="prefix", prefix_len=3),
    "guidance": RTCConfig(method="guidance", prefix_len=3, decay_end=6),
    "guidance by the Jacobian": RTCConfig(method="guidance", prefix_len=3, use_vjp=True),
}


def test_a_known_prefix_stays_unchanged_and_influences_the_rest(observed) -> None:
    model, state, cache = observed
    noise, previous = chunk(), chunk()
    free = sample_actions(model, state, cache, noise)
    tied = sample_actions(model, state, cache, noise, rtc=METHODS["prefix"], previous=previous)
    assert torch.equal(tied[:, :3], previous[:, :3])
    assert not torch.equal(tied[:, 3:], free[:, 3:])


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_prefix_is_bit_identical_to_no_rtc(observed, method: str) -> None:
    model, state, cache = observed
    noise = chunk()
    settings = METHODS[method]
    none = RTCConfig(method=settings.method, prefix_len=0, use_vjp=settings.use_vjp)
    off = RTCConfig(enabled=False, prefix_len=3)
    free = sample_actions(model, state, cache, noise)
    for rtc, previous in ((none, chunk()), (none, chunk()[:, :0]), (off, chunk()), (none, None)):
        tied = sample_actions(model, state, cache, noise, rtc=rtc, previous=previous)
        assert torch.equal(tied, free)


@pytest.mark.parametrize("method", METHODS)
def test_noise_and_the_previous_chunk_are_never_written_to(observed, method: str) -> None:
    model, state, cache = observed
    noise, previous = chunk(), chunk()
    copies = noise.clone(), previous.clone()
    sample_actions(model, state, cache, noise, rtc=METHODS[method], previous=previous)
    assert torch.equal(noise, copies[0]) and torch.equal(previous, copies[1])


@pytest.mark.parametrize("use_vjp", [False, True])
def test_guidance_pulls_the_prefix_towards_the_previous_chunk(observed, use_vjp: bool) -> None:
    model, state, cache = observed
    noise = chunk()
    free = sample_actions(model, state, cache, noise)
    previous = free + 0.5
    rtc = RTCConfig(method="guidance", prefix_len=4, max_guidance_weight=10.0, use_vjp=use_vjp)
    tied = sample_actions(model, state, cache, noise, rtc=rtc, previous=previous)
    before, after = (free - previous)[:, :4].abs().mean(), (tied - previous)[:, :4].abs().mean()
    assert after < 0.6 * before


def test_guidance_reads_only_the_remaining_steps_of_the_previous_chunk(observed) -> None:
    model, state, cache = observed
    noise, previous = chunk(), chunk()
    rtc = RTCConfig(method="guidance", prefix_len=2, decay_end=5)
    longer = sample_actions(model, state, cache, noise, rtc=rtc, previous=previous)
    shorter = sample_actions(model, state, cache, noise, rtc=rtc, previous=previous[:, :5])
    torch.testing.assert_close(shorter, longer, atol=0.0, rtol=0.0)


def test_per_position_times_equal_to_one_time_give_its_velocity(observed) -> None:
    model, state, cache = observed
    x_t = chunk()
    with torch.no_grad():
        one = model.denoise(state, x_t, torch.tensor([[0.3], [0.8]]), cache)
        each = model.denoise(state, x_t, torch.tensor([[0.3], [0.8]]).expand(2, HORIZON), cache)
    torch.testing.assert_close(each, one, atol=1e-5, rtol=1e-5)


def test_each_position_passes_its_own_time_to_the_network(observed) -> None:
    model, state, cache = observed
    x_t, t = chunk(), torch.full((2, HORIZON), 0.5)
    other = t.clone()
    other[:, -1] = 0.9
    with torch.no_grad():
        change = model.denoise(state, x_t, t, cache) - model.denoise(state, x_t, other, cache)
    assert change[:, -1].abs().mean() > 3 * change[:, 0].abs().mean() > 0


@pytest.mark.parametrize("distribution", ["uniform", "exponential"])
@pytest.mark.parametrize("stride", [1, 2])
def test_delays_follow_their_distribution(distribution: Any, stride: int) -> None:
    config = RTCTrainingConfig(max_delay=5, distribution=distribution, temperature=2.0)
    generator = torch.Generator().manual_seed(0)
    drawn = sample_delays(
        config, 20_000, stride=stride, generator=generator, device=torch.device("cpu")
    )
    weights = [
        math.exp((5 - 1 - d) / 2.0) if distribution == "exponential" else 1.0
        for d in range(0, 5, stride)
    ]
    counts = [int((drawn == d).sum()) for d in range(0, 5, stride)]
    assert sum(counts) == 20_000
    expected = [20_000 * weight / sum(weights) for weight in weights]
    assert chisquare(counts, expected).pvalue > 1e-4


def test_a_prefix_in_training_is_clean_and_has_no_loss() -> None:
    mask = torch.ones(2, 5, 3)
    t, kept = with_clean_prefix(torch.tensor([[0.7], [0.2]]), mask, torch.tensor([2, 0]))
    assert t.tolist() == [
        pytest.approx([0.0, 0.0, 0.7, 0.7, 0.7]),
        pytest.approx([0.2] * 5),
    ]
    assert kept[..., 0].tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]


def batch_of(model: PI0FlowMatching) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return {
        "images": torch.randn(2, 1, 3, *model.config.vision_backbone.image_size),
        "image_masks": torch.ones(2, 1, dtype=torch.bool),
        "lang_tokens": torch.randint(4, 200, (2, 6)),
        "lang_masks": torch.ones(2, 6, dtype=torch.bool),
        "states": torch.randn(2, DIM),
        "actions": torch.randn(2, HORIZON, DIM),
        "action_masks": torch.ones(2, HORIZON, dtype=torch.bool),
    }


@pytest.mark.parametrize("kind", ["pi0", "pi05"])
def test_training_with_only_zero_delays_equals_training_without_rtc(kind: str) -> None:
    for setting in (None, RTCTrainingConfig(enabled=False)):
        assert loss_of(policy(kind, rtc_training_config=setting)) == loss_of(policy(kind))
    never = loss_of(policy(kind, rtc_training_config=RTCTrainingConfig(max_delay=1)))
    torch.testing.assert_close(never, loss_of(policy(kind)), atol=1e-5, rtol=1e-5)
    often = RTCTrainingConfig(max_delay=7, distribution="uniform")
    assert loss_of(policy(kind, rtc_training_config=often)) != loss_of(policy(kind))


def loss_of(model: PI0FlowMatching) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return flow_matching_loss(model, batch_of(model), generator=generator).loss


def test_prefix_weights_fall_from_one_to_zero() -> None:
    linear = prefix_weights(2, 5, 8, "linear")
    np.testing.assert_allclose(linear, [1, 1, 0.75, 0.5, 0.25, 0, 0, 0])
    # The paper's equation 5, with c = 3/4, 1/2, 1/4.
    c = np.array([0.75, 0.5, 0.25])
    np.testing.assert_allclose(
        prefix_weights(2, 5, 8, "exp")[2:5], c * (np.e**c - 1) / (np.e - 1), rtol=1e-6
    )
    np.testing.assert_allclose(prefix_weights(2, 5, 8, "ones"), [1, 1, 1, 1, 1, 0, 0, 0])
    np.testing.assert_allclose(prefix_weights(2, 5, 8, "zeros"), [1, 1, 0, 0, 0, 0, 0, 0])
    assert not prefix_weights(0, 0, 8, "exp").any()


def test_the_guidance_weight_is_the_papers_and_bounded() -> None:
    assert guidance_weight(1.0, 5.0) == 5.0
    tau = 0.6
    r_squared = (1 - tau) ** 2 / (tau**2 + (1 - tau) ** 2)
    assert guidance_weight(1 - tau, 100.0) == pytest.approx((1 - tau) / (tau * r_squared))
    assert guidance_weight(1 - tau, 1.5) == 1.5


@pytest.mark.parametrize(
    ("rtc", "steps_left", "message"),
    [
        (RTCConfig(prefix_len=6), 4, "prefix_len: expected at most 4 (the steps left of the"),
        (RTCConfig(prefix_len=None), 8, "prefix_len: expected a number of steps, got None"),
        (RTCConfig(prefix_len=3), 8, "expected a multiple of 2 (actions_per_token), got 3"),
        (RTCConfig(prefix_len=2), 9, "previous: expected at most (2, 8, 14) actions, got"),
    ],
)
def test_a_prefix_that_does_not_fit_is_refused(
    rtc: RTCConfig, steps_left: int, message: str
) -> None:
    model = policy(actions_per_token=2)
    previous = torch.zeros(2, steps_left, DIM)
    with pytest.raises(ConfigError) as error:
        sample_actions(model, None, encode(model), chunk(), rtc=rtc, previous=previous)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (RTCTrainingConfig, dict(max_delay=0), "max_delay: expected at least 1, got 0"),
        (RTCTrainingConfig, dict(temperature=0.0), "temperature: expected a positive number"),
        (RTCConfig, dict(prefix_len=-1), "prefix_len: expected 0 or more steps, got -1"),
        (RTCConfig, dict(prefix_len=5, decay_end=3), "decay_end: expected at least prefix_len"),
        (RTCConfig, dict(max_guidance_weight=0.0), "max_guidance_weight: expected a positive"),
    ],
)
def test_impossible_settings_are_refused(kind: Any, settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bind(kind, settings, "rtc_config")


class Formula(nn.Module):
    """The velocity with which LeRobot's guided results were made; see tests/golden."""

    def __init__(self, golden: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.golden = golden
        self.config = SimpleNamespace(
            num_inference_steps=10, loss_action_dim=None, prefix_stride=1, action_smoothing=0.0
        )

    def suffix_context(self, cache: object, horizon: int) -> None:
        """Nothing to prepare."""

    def denoise(self, state: object, x: torch.Tensor, t: torch.Tensor, *more: object) -> Any:
        mixed = self.golden["mix"] @ x @ self.golden["w_in"]
        return torch.tanh(mixed + t[..., None]) @ self.golden["w_out"]


@pytest.fixture(scope="module")
def lerobot(repo_root: Path) -> tuple[dict[str, torch.Tensor], list[list[float]]]:
    path = repo_root / "tests" / "golden" / "rtc_lerobot.safetensors"
    with safe_open(path, "pt") as file:
        return load_file(path), json.loads(file.metadata()["cases"])


@pytest.mark.parametrize("schedule", ["linear", "exp", "ones", "zeros"])
@pytest.mark.parametrize("case", range(5))
@pytest.mark.parametrize("use_vjp", [False, True])
def test_guidance_is_lerobots(lerobot, schedule: Any, case: int, use_vjp: bool) -> None:
    golden, cases = lerobot
    delay, horizon, left, weight = cases[case]
    end = int(min(horizon, left))
    key = f"{schedule}.{case}"
    weights = prefix_weights(int(delay), end, 16, schedule)
    np.testing.assert_allclose(weights, golden[f"{key}.weights"].numpy(), atol=1e-6)
    rtc = RTCConfig(
        method="guidance",
        prefix_len=int(delay),
        decay_end=end,
        schedule=schedule,
        max_guidance_weight=weight,
        use_vjp=use_vjp,
    )
    model: Any = Formula(golden)
    previous = golden["previous"][:, : int(left)]
    cache: Any = None
    found = sample_actions(model, None, cache, golden["noise"], 10, rtc=rtc, previous=previous)
    expected = golden[f"{key}.actions_vjp" if use_vjp else f"{key}.actions"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
