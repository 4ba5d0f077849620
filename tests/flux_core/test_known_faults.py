"""Faults that public implementations of pi0 had, each with a test that ours does not have it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from flux_core.config import bind
from flux_core.errors import ConfigError
from flux_core.models import PrefixCache, sample_actions
from flux_core.models.pi import PI0FlowMatching, PI05FlowMatching
from flux_core.norm_stats import compute_stats
from flux_core.transforms import (
    NormalizeStatesAndActions,
    PadKeyToDim,
    PreparePromptWithState,
    Sample,
    TaskPrompter,
    apply,
)

from .models.test_pi0_to_pi05 import configs


def built(config: PI0FlowMatching.Config) -> PI0FlowMatching:
    torch.manual_seed(0)
    model = config.build()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def encode(model: PI0FlowMatching) -> PrefixCache:
    with torch.no_grad():
        return model.prefix(
            torch.randn(2, 2, 3, 28, 28),
            torch.ones(2, 2, dtype=torch.bool),
            torch.randint(0, 50, (2, 5)),
            torch.ones(2, 5, dtype=torch.bool),
        )


def seven_dimensions(pad_first: bool) -> Sample:
    """A UR3's sample in a 14-dimensional run, padded before the normalisation or by it."""
    rows = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    stats = compute_stats(rows)
    if pad_first:
        stats = stats.padded(14)
    sample = {
        "states": rows[0],
        "actions": rows[:4],
        "task_description": "Move_the_block",
        "stats": {"proprio": stats, "action": stats},
    }
    pad = [PadKeyToDim(keys=("actions", "states"), dim=14)] if pad_first else []
    normalize = NormalizeStatesAndActions(norm_type="quantile", state_dim=14, action_dim=14)
    return apply([*pad, normalize, PreparePromptWithState()], sample)


@pytest.mark.parametrize("pad_first", [False, True])
def test_the_prompt_contains_only_the_real_state(pad_first: bool) -> None:
    numbers = seven_dimensions(pad_first)["prompt"].partition("State: ")[2].partition(";")[0]
    assert len(numbers.split()) == 7


@pytest.mark.parametrize("pad_first", [False, True])
def test_padded_dimensions_are_zero_and_have_no_loss(pad_first: bool) -> None:
    sample = seven_dimensions(pad_first)
    assert sample["action_dim_masks"].tolist() == [True] * 7 + [False] * 7
    np.testing.assert_allclose(sample["actions"][:, 7:], 0.0, atol=1e-6)
    np.testing.assert_allclose(sample["states"][7:], 0.0, atol=1e-6)
    assert np.abs(sample["actions"][:, :7]).max() > 0.1


@pytest.mark.parametrize("kind", [0, 1], ids=["pi0", "pi05"])
def test_padded_dimensions_are_seen_as_in_training(
    kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """x_t there is t * noise at every step, and the actions there are 0."""
    model = built(dataclasses.replace(configs()[kind], loss_action_dim=4))
    seen = []
    original = model.denoise

    def watched(state, x_t, t, cache, *more):
        seen.append((x_t[..., 4:].clone(), t))
        return original(state, x_t, t, cache, *more)

    monkeypatch.setattr(model, "denoise", watched)
    noise = torch.randn(2, 6, 7)
    actions = sample_actions(model, torch.randn(2, 7), encode(model), noise, 5)
    assert len(seen) == 5
    for padding, t in seen:
        torch.testing.assert_close(padding, t[..., None] * noise[..., 4:])
    torch.testing.assert_close(actions[..., 4:], torch.zeros(2, 6, 3), atol=1e-6, rtol=0.0)
    assert actions[..., :4].abs().min() > 0


@pytest.mark.parametrize("kind", [0, 1], ids=["pi0", "pi05"])
def test_the_callers_noise_is_not_modified(kind: int) -> None:
    model, noise = built(configs()[kind]), torch.randn(2, 6, 7)
    copy = noise.clone()
    actions = sample_actions(model, torch.randn(2, 7), encode(model), noise)
    assert torch.equal(noise, copy) and actions.data_ptr() != noise.data_ptr()


@pytest.mark.parametrize("kind", [0, 1], ids=["pi0", "pi05"])
def test_the_expert_has_no_embedding_weights_are_float32_and_repr_works(kind: int) -> None:
    model = built(configs()[kind])
    assert not any(name.startswith("llm_expert.embed") for name in model.state_dict())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert "llm_expert" in repr(model)


@pytest.mark.parametrize("kind", [0, 1], ids=["pi0", "pi05"])
def test_the_masks_follow_the_actual_horizon(kind: int) -> None:
    model = built(configs()[kind])
    cache, state = encode(model), torch.randn(2, 7)
    x_t, t = torch.randn(2, 3, 7), torch.full((2, 1), 0.5)
    with torch.no_grad():
        velocity = model.denoise(state, x_t, t, cache)
    assert velocity.shape == (2, 3, 7)
    assert model.config.n_action_steps == 6


def test_training_and_robot_use_the_same_prompt() -> None:
    sample = {"task_description": "Pick_up the cup\n"}
    assert TaskPrompter()(sample)["prompt"] == "Pick up the cup\n"
    in_training, on_robot = (
        bind(object, {"type": name}) for name in ("ParquetPrompter", "PrivatePrompter")
    )
    assert in_training == on_robot == TaskPrompter()
    asked = TaskPrompter(use_conversation=True)(sample)["prompt"]
    assert asked == "In: What action should the robot take to Pick up the cup?\nOut:"


class Blind(nn.Module):
    """A user's backbone without weights."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        out_dim: int = 16
        image_size: tuple[int, int] = (28, 28)

        def build(self) -> Blind:
            return Blind()


def test_a_freeze_flag_that_would_freeze_nothing_is_an_error() -> None:
    config = dataclasses.replace(configs()[1], vision_backbone=Blind.Config())
    assert isinstance(config, PI05FlowMatching.Config) and config.build() is not None
    frozen = dataclasses.replace(config, freeze_vlm_backbone=True)
    with pytest.raises(ConfigError, match="freeze_vision_backbone: vision_backbone has no param"):
        frozen.build()
