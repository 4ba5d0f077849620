"""GR00T: missing cameras, padding, embodiments, times, dropout and what is frozen.

The bugs of the originals that these tests rule out are numbered as in the project's notes: G1 to
G14. Those without a test here are about others' data or packaging: G2, G3 (prompts), G10
(post-processing), G11 (loading), G12 (imports), G13 (names).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flux_core.config import bind, unbind
from flux_core.errors import ConfigError, DataError
from flux_core.models.flow import (
    FlowDraws,
    FlowPolicy,
    Size,
    flow_errors,
    flow_mask,
    sample_actions,
)
from flux_core.models.gr00t import GR00TFlowMatching, ImagePlaces, Qwen3Backbone
from flux_core.models.gr00t.blocks import Attention, FeedForward
from flux_core.models.gr00t.dit import DiT
from flux_core.models.gr00t.embodiments import EmbodimentLinear
from flux_core.models.gr00t.mixer import VLSelfAttention
from flux_core.models.gr00t.times import BucketFeatures, time_bucket
from flux_core.models.layers import LinearProjector, SigLIPVisionConfig, SigLIPViTBackbone
from flux_core.rtc import RTCConfig
from flux_core.transforms import Tokenization

IMAGE, START, END, PATCHES = 90, 91, 92, 4
HEAD, TAIL = [1, 2, 3], [4, 5]
STATE, DIM, HORIZON = 7, 5, 6


def tiny_config(**settings: Any) -> GR00TFlowMatching.Config:
    vision = SigLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=28,
    )
    sizes: dict[str, Any] = dict(
        n_action_steps=HORIZON,
        vision_backbone=SigLIPViTBackbone.Config(vision_config=vision),
        projector=LinearProjector.Config(in_dim=16, out_dim=32),
        llm_backbone=Qwen3Backbone.Config(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=12,
            vocab_size=100,
        ),
        vl_self_attention=VLSelfAttention.Config(
            num_layers=2, num_attention_heads=4, attention_head_dim=8
        ),
        dit=DiT.Config(
            num_layers=3,
            num_attention_heads=2,
            attention_head_dim=10,
            output_dim=24,
            cross_attention_dim=32,
        ),
        image_places=ImagePlaces(token_id=IMAGE, label_tokens=2),
        max_state_dim=STATE,
        max_action_dim=DIM,
        hidden_size=24,
        num_future_tokens=3,
        num_positions=12,
        num_embodiments=4,
    )
    return GR00TFlowMatching.Config(**(sizes | settings))


def tiny_model(**settings: Any) -> GR00TFlowMatching:
    """Random weights, large enough that everything matters."""
    torch.manual_seed(0)
    model = tiny_config(**settings).build().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def prompt(cameras: int, task: list[int]) -> list[int]:
    """Each camera: two tokens of its label, the second with its number."""
    segments = [
        token
        for number in range(1, cameras + 1)
        for token in [10, 10 + number, START, *[IMAGE] * PATCHES, END]
    ]
    return [*HEAD, *segments, *task, *TAIL]


def batch_of(cameras: int, tasks: list[list[int]], **more: Tensor) -> dict[str, Tensor]:
    """Samples with random images, left-padded."""
    rows = [prompt(cameras, task) for task in tasks]
    length = max(map(len, rows))
    tokens = torch.tensor([[99] * (length - len(row)) + row for row in rows])
    masks = torch.tensor([[False] * (length - len(row)) + [True] * len(row) for row in rows])
    drawn = torch.Generator().manual_seed(3)
    size = len(rows)
    return {
        "images": torch.rand(size, cameras, 3, 28, 28, generator=drawn) * 2 - 1,
        "image_masks": torch.ones(size, cameras, dtype=torch.bool),
        "lang_tokens": tokens,
        "lang_masks": masks,
        "states": torch.randn(size, STATE, generator=drawn),
        "actions": torch.randn(size, HORIZON, DIM, generator=drawn),
        "action_masks": torch.ones(size, HORIZON, dtype=torch.bool),
        "noise": torch.randn(size, HORIZON, DIM, generator=drawn),
        "embodiment_ids": torch.tensor([1, 3, 1, 2][:size]),
        **more,
    }


@torch.no_grad()
def actions_of(model: GR00TFlowMatching, batch: dict[str, Tensor], **settings: Any) -> Tensor:
    cache = model.prefix(
        *(batch[name] for name in ("images", "image_masks", "lang_tokens", "lang_masks"))
    )
    return sample_actions(
        model,
        batch["states"],
        cache,
        batch["noise"],
        embodiments=batch["embodiment_ids"],
        **settings,
    )


def close(found: Tensor, expected: Tensor, tolerance: float = 5e-6) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def test_every_block_of_a_fresh_network_is_the_identity() -> None:
    model = tiny_config().build()
    blocks = model.dit.blocks
    x, cond = torch.randn(2, 5, 20), torch.randn(2, 1, 20)
    keys, values = model.dit.keys_and_values(torch.randn(2, 7, 32))
    for index, block in enumerate(blocks):
        cross = None if index % 2 else (keys[index // 2], values[index // 2])
        assert torch.equal(block(x, cond, cross, None), x)
    assert len(blocks) == 3 and all(value.abs().sum() > 0 for value in (*keys, *values))


# Missing cameras.


@pytest.mark.parametrize("missing", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)], ids=str)
def test_a_missing_camera_gives_the_answer_of_a_network_without_it(missing: tuple[int]) -> None:
    model = tiny_model()
    whole = batch_of(3, [[30, 31], [32]])
    masks = whole["image_masks"].clone()
    masks[0, list(missing)] = False
    found = actions_of(model, whole | {"image_masks": masks})
    left = [camera for camera in range(3) if camera not in missing]
    fewer = batch_of(len(left), [[30, 31], [32]])
    alone = {name: whole[name] for name in ("states", "noise", "embodiment_ids")}
    expected = actions_of(model, fewer | alone | {"images": whole["images"][:, left]})
    close(found[0], expected[0])
    # The other sample has all its cameras.
    close(found[1], actions_of(model, whole)[1])
    assert (found[0] - actions_of(model, whole)[0]).abs().max() > 1e-3


def test_what_a_missing_camera_shows_changes_nothing() -> None:
    model, batch = tiny_model(), batch_of(3, [[30, 31], [32]])
    masks = torch.tensor([[True, False, True], [True, True, True]])
    images = batch["images"].clone()
    images[0, 1] = 50.0
    clean = actions_of(model, batch | {"image_masks": masks})
    assert torch.equal(clean, actions_of(model, batch | {"image_masks": masks, "images": images}))


@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_a_missing_camera_may_be_in_a_padded_prompt(side: str) -> None:
    model, batch = tiny_model(), batch_of(2, [[30, 31]])
    masks = torch.tensor([[False, True]])
    expected = actions_of(model, batch | {"image_masks": masks})
    tokens, real = batch["lang_tokens"], batch["lang_masks"]
    garbage, no = torch.full((1, 5), IMAGE), torch.zeros(1, 5, dtype=torch.bool)
    if side in ("left", "both"):
        tokens, real = torch.cat((garbage, tokens), 1), torch.cat((no, real), 1)
    if side in ("right", "both"):
        tokens, real = torch.cat((tokens, garbage), 1), torch.cat((real, no), 1)
    changed = {"image_masks": masks, "lang_tokens": tokens, "lang_masks": real}
    close(actions_of(model, batch | changed), expected)


def test_without_any_camera_the_task_alone_is_read() -> None:
    model, batch = tiny_model(), batch_of(2, [[30, 31]])
    found = actions_of(model, batch | {"image_masks": torch.tensor([[False, False]])})
    assert found.isfinite().all()
    other = batch_of(2, [[33, 31]]) | {"image_masks": torch.tensor([[False, False]])}
    assert (found - actions_of(model, other)).abs().max() > 1e-4


# Padding (G1).


def test_a_sample_gets_the_same_actions_alone_and_in_any_batch() -> None:
    model = tiny_model()
    tasks = [[30, 31], [32], [33, 34, 35, 36, 37], []]
    batch = batch_of(2, tasks)
    together = actions_of(model, batch)
    for row, task in enumerate(tasks):
        alone = {name: value[row : row + 1] for name, value in batch.items()}
        tokens = torch.tensor([prompt(2, task)])
        alone |= {"lang_tokens": tokens, "lang_masks": torch.ones_like(tokens, dtype=torch.bool)}
        close(together[row : row + 1], actions_of(model, alone))


def test_garbage_in_padding_changes_nothing() -> None:
    model, batch = tiny_model(), batch_of(1, [[30, 31, 32], [33]])
    tokens = torch.where(batch["lang_masks"], batch["lang_tokens"], 77)
    again = actions_of(model, batch | {"lang_tokens": tokens})
    assert torch.equal(again, actions_of(model, batch))


# Inputs that do not fit.


def test_an_image_of_another_size_is_refused() -> None:
    """Eagle would cut a camera image of 480 x 640 into 13 tiles."""
    batch = batch_of(1, [[30]])
    with pytest.raises(DataError, match=r"images: expected \(28, 28\) pixels, got \(480, 640\)"):
        actions_of(tiny_model(), batch | {"images": torch.zeros(1, 1, 3, 480, 640)})


@pytest.mark.parametrize(
    ("cameras", "task"), [(2, [30]), (1, [30, IMAGE])], ids=["cameras", "in the task"]
)
def test_a_prompt_with_another_number_of_images_is_refused(cameras: int, task: list[int]) -> None:
    batch = batch_of(1, [[30]])
    tokens = torch.tensor([prompt(cameras, task)])
    wrong = {"lang_tokens": tokens, "lang_masks": torch.ones_like(tokens, dtype=torch.bool)}
    with pytest.raises(DataError, match=r"lang_tokens\[0\]: expected 4 image tokens"):
        actions_of(tiny_model(), batch | wrong)


def test_labels_of_another_tokenizer_are_refused() -> None:
    """Otherwise a missing camera would be masked only in part."""
    model = tiny_model(image_places=ImagePlaces(token_id=IMAGE, label_tokens=5))
    with pytest.raises(DataError, match=r"expected labels of 5 tokens .* got \[2\]"):
        actions_of(model, batch_of(2, [[30]]))


def test_a_longer_horizon_than_there_are_positions_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"n_action_steps: expected at most 12"):
        tiny_config(n_action_steps=13)
    batch = batch_of(1, [[30]])
    with pytest.raises(ConfigError, match=r"n_action_steps: expected at most 12"):
        actions_of(tiny_model(), batch | {"noise": torch.zeros(1, 13, DIM)})


def test_another_horizon_is_sampled_from_the_same_weights() -> None:
    """NVIDIA makes a new action head for one, with fewer checks (G11)."""
    model, batch = tiny_model(), batch_of(1, [[30]])
    assert actions_of(model, batch | {"noise": torch.ones(1, 12, DIM)}).shape == (1, 12, DIM)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (dict(hidden_size=20), "dit.output_dim: expected 20"),
        (dict(projector=LinearProjector.Config(in_dim=16, out_dim=8)), "projector.out_dim"),
        (dict(image_places=ImagePlaces(token_id=100)), "image_places.token_id: expected an id"),
        (dict(num_embodiments=0), "num_embodiments"),
        (dict(loss_action_dim=6), "loss_action_dim: expected at most 5"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config(**setting)


# Embodiments (G7, G14).


@pytest.mark.parametrize("unknown", [4, -1])
def test_an_unknown_embodiment_is_refused(unknown: int) -> None:
    """LeRobot maps unknown ones to 0."""
    batch = batch_of(1, [[30], [31]]) | {"embodiment_ids": torch.tensor([1, unknown])}
    with pytest.raises(ConfigError, match=rf"embodiment_ids: expected ids below 4, got {unknown}"):
        actions_of(tiny_model(), batch)


def test_a_missing_embodiment_is_refused_unless_there_is_only_one() -> None:
    batch: dict[str, Any] = batch_of(1, [[30]]) | {"embodiment_ids": None}
    with pytest.raises(ConfigError, match="embodiment_ids: expected one of 4 embodiments"):
        actions_of(tiny_model(), batch)
    assert actions_of(tiny_model(num_embodiments=1), batch).shape == (1, HORIZON, DIM)


def test_only_the_embodiments_of_the_batch_get_gradients() -> None:
    model, batch = tiny_model(), batch_of(1, [[30], [31]])
    loss_of(model, batch).backward()
    for module in model.modules():
        if isinstance(module, EmbodimentLinear):
            gradient = module.W.grad
            assert gradient is not None
            assert [bool(row.any()) for row in gradient] == [False, True, False, True]


def test_no_weight_is_copied_per_sample() -> None:
    """NVIDIA's `W[cat_ids]` copies the chosen weights for every sample of a batch (G14)."""
    layer = EmbodimentLinear(3, 64, 64)
    copies: list[torch.Size] = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.shape[-2:] == (64, 64):
                copies.append(out.shape)
            return out

    with Watch():
        layer(1, torch.randn(32, 5, 64))
    assert copies == [torch.Size((64, 64))], "the view of one embodiment's weight"


# Times (G4, G5).


def test_buckets_of_all_step_counts_are_exact() -> None:
    for count in range(1, 201):
        k = torch.arange(count)
        t = (count - k) / count
        assert torch.equal(time_bucket(t.float()), k * 1000 // count), count


def test_buckets_of_training_times_are_truncated() -> None:
    theirs = torch.tensor([0.3337, 0.8579, -0.0005, 0.9996])
    assert time_bucket(1.0 - theirs).tolist() == [333, 857, 0, 999]


def test_training_times_have_the_published_distribution() -> None:
    """t = (0.999 - s) / 0.999 with s from Beta(1.5, 1), and 1001 buckets instead of bf16's 254."""
    config = tiny_config()
    t = config.sample_time(
        200_000, generator=torch.Generator().manual_seed(0), device=torch.device("cpu")
    )
    assert t.dtype is torch.float32
    theirs = 1.0 - t
    assert theirs.mean() == pytest.approx(0.399, abs=2e-3)
    assert theirs.std() == pytest.approx(0.262, abs=2e-3)
    assert (theirs < 0).float().mean() == pytest.approx(0.0015, abs=3e-4)
    assert -0.0011 < theirs.min() < 0 and theirs.max() < 1.0
    assert len(time_bucket(t).unique()) > 950


def test_time_features_are_cosine_first_or_sine_first() -> None:
    t = torch.tensor([[1.0 - 0.25]])
    bucket, half = 250.0, 4
    dit = BucketFeatures(8, cosine_first=True, frequency_shift=1)(t)[0, 0]
    actions = BucketFeatures(8, cosine_first=False, frequency_shift=0)(t)[0, 0]
    for i in range(half):
        slow, fast = (bucket * 10000.0 ** (-i / n) for n in (3, 4))
        assert dit[[i, half + i]].tolist() == pytest.approx(
            [math.cos(slow), math.sin(slow)], abs=3e-5
        )
        assert actions[[i, half + i]].tolist() == pytest.approx(
            [math.sin(fast), math.cos(fast)], abs=3e-5
        )


def test_actions_times_and_their_layers_stay_float32_under_autocast() -> None:
    """NVIDIA accumulates x_t in bfloat16 (G5), LeRobot even draws times in it (G4)."""
    model, batch = tiny_model(), batch_of(1, [[30], [31]])
    exact = actions_of(model, batch)
    seen: dict[str, list[torch.dtype]] = {}
    for name in ("W1", "W2", "W3"):
        layer = model.action_encoder.get_submodule(name)
        layer.register_forward_hook(recorder(seen, "first"))
    for part in (model.state_encoder, model.action_decoder):
        for name in ("layer1", "layer2"):
            part.get_submodule(name).register_forward_hook(recorder(seen, "last"))
    model.dit.blocks[0].attn1.register_forward_hook(recorder(seen, "inner"))
    with torch.autocast("cpu", torch.bfloat16):
        actions = actions_of(model, batch)
        loss = loss_of(model, batch)
    assert actions.dtype is loss.dtype is torch.float32
    assert set(seen["first"]) == set(seen["last"]) == {torch.float32}
    assert set(seen["inner"]) == {torch.bfloat16}
    assert 0 < (actions - exact).abs().max() < 0.1


def recorder(seen: dict[str, list[torch.dtype]], name: str):
    def hook(module: nn.Module, given: object, out: Tensor) -> None:
        seen.setdefault(name, []).append(out.dtype)

    return hook


# Real-time chunking (G9).


def test_a_known_prefix_has_its_own_bucket_and_the_norms_keep_the_samples_time() -> None:
    model, batch = tiny_model(), batch_of(1, [[30], [31]])
    buckets: list[list[list[int]]] = []
    for part in (model.action_encoder.time_embedding, model.dit.timestep_encoder.features):
        part.register_forward_hook(
            lambda module, given, out: buckets.append(time_bucket(given[0]).tolist())
        )
    rtc = RTCConfig(enabled=True, method="prefix", prefix_len=2)
    previous = torch.randn(2, HORIZON, DIM)
    actions = actions_of(model, batch, rtc=rtc, previous=previous)
    assert torch.equal(actions[:, :2], previous[:, :2])
    for step, bucket in enumerate((0, 250, 500, 750)):
        rows, norms = buckets[2 * step : 2 * step + 2]
        assert rows == [[1000, 1000, bucket, bucket, bucket, bucket]] * 2
        assert norms == [[bucket]] * 2
    assert (actions[:, 2:] - actions_of(model, batch)[:, 2:]).abs().max() > 1e-3


def test_an_empty_prefix_is_no_real_time_chunking() -> None:
    model, batch = tiny_model(), batch_of(1, [[30]])
    rtc = RTCConfig(enabled=True, method="prefix", prefix_len=0)
    previous = torch.randn(1, HORIZON, DIM)
    with_rtc = actions_of(model, batch, rtc=rtc, previous=previous)
    assert torch.equal(with_rtc, actions_of(model, batch))


# The loss (G8).


def test_padded_dimensions_have_no_loss_and_do_not_scale_it() -> None:
    """FluxVLA multiplies the mean over the real dimensions by their share."""
    model, batch = tiny_model(), batch_of(1, [[30], [31]])
    dims = torch.tensor([[True] * 3 + [False] * 2] * 2)
    draws = draws_of(batch)
    errors = flow_errors(model, batch, draws)
    mask = flow_mask(model, batch | {"action_dim_masks": dims}, draws)
    assert torch.equal(mask, dims[:, None].float().expand_as(mask))
    close(loss_of(model, batch | {"action_dim_masks": dims}), errors[..., :3].mean())


def draws_of(batch: dict[str, Tensor]) -> FlowDraws:
    return FlowDraws(
        noise=batch["noise"], t=torch.linspace(0.2, 0.9, len(batch["noise"])), delays=None
    )


def loss_of(model: GR00TFlowMatching, batch: dict[str, Tensor]) -> Tensor:
    draws = draws_of(batch)
    mask = flow_mask(model, batch, draws)
    return (flow_errors(model, batch, draws) * mask).sum() / mask.sum()


# Dropout, and what is frozen (G6).


def test_dropout_acts_at_four_places_of_a_block() -> None:
    """After to_out, again on the attention's output, after the GELU, after the second linear."""
    attention = Attention(64, num_heads=2, head_dim=32, dropout=0.2).train()
    keys = torch.randn(1, 2, 3, 32)
    shares = zeros(attention(torch.randn(1, 4000, 64), keys, keys))
    assert shares == pytest.approx(1 - 0.8 * 0.8, abs=0.01)
    feed = FeedForward(64, 0.2).train()
    hidden: list[Tensor] = []
    feed.net[2].register_forward_pre_hook(lambda module, given: hidden.append(given[0]))
    out = feed(torch.randn(1, 4000, 64))
    assert zeros(hidden[0]) == pytest.approx(0.2, abs=0.01)
    assert zeros(out) == pytest.approx(0.2, abs=0.01)


def zeros(x: Tensor) -> float:
    return (x == 0).float().mean().item()


def test_evaluation_drops_nothing_and_training_does() -> None:
    model, batch = tiny_model(), batch_of(1, [[30]])
    assert torch.equal(actions_of(model, batch), actions_of(model, batch))
    model.train()
    assert not torch.equal(actions_of(model, batch), actions_of(model, batch))


@pytest.mark.parametrize(
    ("flag", "parts"),
    [
        ("freeze_vision_backbone", {"vision_backbone"}),
        ("freeze_projector", {"projector"}),
        ("freeze_llm_backbone", {"llm_backbone"}),
        ("freeze_vlm_backbone", {"vision_backbone", "projector", "llm_backbone"}),
        ("freeze_mixer", {"vlln", "vl_self_attention"}),
        (
            "freeze_action_projectors",
            {"state_encoder", "action_encoder", "action_decoder", "position_embedding"},
        ),
        ("freeze_dit", {"dit", "future_tokens"}),
    ],
)
def test_a_flag_freezes_what_it_says_and_its_dropout(flag: str, parts: set[str]) -> None:
    """NVIDIA's mixer and future tokens are trained whatever the flags say (G6)."""
    model = tiny_model(**{flag: True}).train()
    frozen = {n.split(".")[0] for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == parts
    for name, module in model.named_modules():
        if name:
            assert module.training == (name.split(".")[0] not in parts), name


def test_every_parameter_has_a_gradient_where_nothing_is_frozen() -> None:
    model = tiny_model()
    loss_of(model, batch_of(2, [[30], [31]])).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert model.without_effect() == []


def test_a_new_network_starts_with_plain_norms_whatever_the_time() -> None:
    torch.manual_seed(0)
    model = tiny_config().build().eval()
    assert all(not block.norm1.linear.weight.any() for block in model.dit.blocks)
    assert actions_of(model, batch_of(1, [[30]])).abs().max() < 100


def test_each_layer_is_listed_once() -> None:
    model = tiny_model()
    assert len(set(map(id, model.layers))) == len(model.layers) == 1 + 2 + 2 + 3
    assert model.num_cached_layers == 2


@pytest.mark.parametrize("size", ["small", "medium", "full"])
def test_a_network_of_each_size_reads_its_example_prompt(size: Size) -> None:
    config = bind(FlowPolicy.Config, GR00TFlowMatching.Config.sized(size), "model")
    assert isinstance(config, GR00TFlowMatching.Config)
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in config.build().parameters())
    millions = {"small": (5, 50), "medium": (30, 200), "full": (2300, 2500)}[size]
    assert millions[0] < count / 1e6 < millions[1]
    (prompts,) = (s for s in config.example_transforms() if isinstance(s, Tokenization))
    sample = prompts({"task_description": "fold the towel"})
    tokens, masks = (torch.from_numpy(sample[name])[None] for name in ("lang_tokens", "lang_masks"))
    places = config.image_places.locate(
        tokens, masks, torch.tensor([[True, False, True]]), config.vision_backbone.num_tokens
    )
    lost = masks.sum() - places.masks.sum()
    assert lost == config.vision_backbone.num_tokens + 3, "the segment of the second camera"


def test_the_config_is_plain_data_and_back() -> None:
    config = tiny_config(freeze_dit=True)
    assert bind(FlowPolicy.Config, unbind(config), "model") == config
    assert dataclasses.replace(config, n_action_steps=2) != config
