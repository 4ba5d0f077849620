"""Our networks against a reference made at test time from `transformers` modules."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from flux_core.models import LinearProjector, SigLIPVisionConfig, SigLIPViTBackbone, sample_actions
from flux_core.models.layers.basic import additive_mask, attend
from flux_core.models.pi import ConditionGemmaModel, PI0FlowMatching, PI05FlowMatching
from flux_runtime.export.precision.network import set_precision

HORIZON, DIM = 6, 9
OBSERVATION = ("images", "image_masks", "lang_tokens", "lang_masks")


@pytest.fixture(scope="session")
def reference(repo_root: Path) -> ModuleType:
    """benchmarks/transformers_policy.py."""
    path = repo_root / "benchmarks" / "transformers_policy.py"
    spec = importlib.util.spec_from_file_location("transformers_policy", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def tiny_config(kind: str, key_heads: int) -> PI0FlowMatching.Config:
    vlm = ConditionGemmaModel.Config(
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=key_heads,
        head_dim=16,
        vocab_size=200,
    )
    expert = dataclasses.replace(vlm, hidden_size=32, intermediate_size=64, vocab_size=None)
    shared: dict[str, Any] = dict(
        vision_backbone=SigLIPViTBackbone.Config(
            vision_config=SigLIPVisionConfig(
                hidden_size=32,
                intermediate_size=56,
                num_hidden_layers=2,
                num_attention_heads=4,
                image_size=42,
            )
        ),
        projector=LinearProjector.Config(in_dim=32, out_dim=48),
        llm_backbone=vlm,
        proj_width=32,
        n_action_steps=HORIZON,
        action_in_proj=LinearProjector.Config(in_dim=DIM, out_dim=32),
        action_out_proj=LinearProjector.Config(in_dim=32, out_dim=DIM),
    )
    if kind == "pi0":
        state = LinearProjector.Config(in_dim=DIM, out_dim=32)
        return PI0FlowMatching.Config(**shared, llm_expert=expert, state_proj=state)
    adarms = dataclasses.replace(expert, use_adarms=True, adarms_cond_dim=32)
    return PI05FlowMatching.Config(**shared, llm_expert=adarms)


@pytest.fixture(params=[("pi0", 1), ("pi0", 2), ("pi05", 1), ("pi05", 2)], ids=str)
def model(request: pytest.FixtureRequest) -> PI0FlowMatching:
    torch.manual_seed(0)
    model = tiny_config(*request.param).build().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return model


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Sample 0 without its second camera; prompts of different lengths."""
    torch.manual_seed(1)
    return {
        "images": torch.rand(2, 3, 3, 42, 42) * 2 - 1,
        "image_masks": torch.tensor([[True, False, True], [True, True, True]]),
        "lang_tokens": torch.randint(0, 200, (2, 7)),
        "lang_masks": torch.tensor([[True] * 7, [True] * 4 + [False] * 3]),
        "states": torch.randn(2, DIM),
        "actions": torch.randn(2, HORIZON, DIM),
        "action_masks": torch.ones(2, HORIZON, dtype=torch.bool),
    }


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=1e-6)


def ours_at(
    model: PI0FlowMatching, batch: dict[str, torch.Tensor], noise: torch.Tensor, t: torch.Tensor
) -> torch.Tensor:
    cache = model.prefix(*(batch[name] for name in OBSERVATION))
    x_t = t[:, None, None] * noise + (1 - t[:, None, None]) * batch["actions"]
    return model.denoise(batch["states"], x_t, t[:, None], cache)


def test_siglip_and_projector_agree(model, batch, reference) -> None:
    peer = reference.TransformersPolicy(model)
    with torch.no_grad():
        embedded, pad = model.embed_prefix(*(batch[name] for name in OBSERVATION))
        expected, expected_pad, _ = peer.embed_prefix(*(batch[name] for name in OBSERVATION))
    assert torch.equal(pad, expected_pad)
    close(embedded, expected, 1e-5)


def test_keys_and_values_of_every_layer_agree(model, batch, reference) -> None:
    peer = reference.TransformersPolicy(model)
    with torch.no_grad():
        found = model.prefix(*(batch[name] for name in OBSERVATION))
        cache, pad = peer.encode(*(batch[name] for name in OBSERVATION))
    for layer, key, value in zip(cache.layers, found.keys, found.values, strict=True):
        close(key.transpose(1, 2)[pad], layer.keys.transpose(1, 2)[pad], 1e-5)
        close(value.transpose(1, 2)[pad], layer.values.transpose(1, 2)[pad], 1e-5)


def test_velocity_of_the_joint_forward_agrees(model, batch, reference) -> None:
    noise, t = torch.randn(2, HORIZON, DIM), torch.tensor([0.3, 0.9])
    x_t = t[:, None, None] * noise + (1 - t[:, None, None]) * batch["actions"]
    peer = reference.TransformersPolicy(model)
    with torch.no_grad():
        expected = peer.velocity(*(batch[k] for k in OBSERVATION), batch["states"], x_t, t)
        close(ours_at(model, batch, noise, t), expected, 2e-5)


def test_gradients_agree_for_every_parameter(model, batch, reference) -> None:
    noise, t = torch.randn(2, HORIZON, DIM), torch.tensor([0.4, 0.8])
    reference.TransformersPolicy(model).loss(batch, noise, t).backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    (ours_at(model, batch, noise, t) - (noise - batch["actions"])).square().mean().backward()
    # A key's bias shifts all scores equally: its gradient is zero up to rounding.
    floor = 1e-3 * max(g.norm() for g in expected.values() if g is not None)
    for name, parameter in model.named_parameters():
        theirs = expected[name]
        if theirs is None or parameter.grad is None:
            # The prefix's last layer: only its keys and values are read.
            assert name.startswith(("llm_backbone.layers.2.", "llm_backbone.norm."))
            assert theirs is None or theirs.norm() == 0, name
            continue
        difference = (parameter.grad - theirs).norm() / theirs.norm().clamp(min=floor)
        assert difference < 1e-4, f"{name}: {difference}"


@pytest.mark.parametrize("num_inference_steps", [1, 10])
def test_sampled_actions_agree(model, batch, reference, num_inference_steps: int) -> None:
    noise = torch.randn(2, HORIZON, DIM)
    peer = reference.TransformersPolicy(model)
    expected = peer.sample_actions(
        *(batch[k] for k in OBSERVATION), batch["states"], noise, num_inference_steps
    )
    with torch.no_grad():
        cache = model.prefix(*(batch[name] for name in OBSERVATION))
    close(sample_actions(model, batch["states"], cache, noise, num_inference_steps), expected, 1e-4)


@torch.no_grad()
def test_joint_forward_and_cached_denoise_agree_to_a_millionth(model, batch) -> None:
    """Both use our own blocks, so only the path differs."""
    x_t, t = torch.randn(2, HORIZON, DIM), torch.tensor([[0.2], [0.7]])
    cached = model.denoise(
        batch["states"], x_t, t, model.prefix(*(batch[name] for name in OBSERVATION))
    )
    torch.testing.assert_close(joint_velocity(model, batch, x_t, t), cached, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_garbage_in_masked_places_changes_nothing(model, batch) -> None:
    noise, t = torch.randn(2, HORIZON, DIM), torch.tensor([0.3, 0.9])
    expected = ours_at(model, batch, noise, t)
    images, tokens = batch["images"].clone(), batch["lang_tokens"].clone()
    images[0, 1] = 50 * torch.randn(3, 42, 42)
    tokens[1, 4:] = 199
    found = ours_at(model, batch | {"images": images, "lang_tokens": tokens}, noise, t)
    assert torch.equal(found, expected)


def joint_velocity(
    model: PI0FlowMatching, batch: dict[str, torch.Tensor], x_t: torch.Tensor, t: torch.Tensor
) -> torch.Tensor:
    """One pass over the concatenated streams, without a cache."""
    prefix, pad = model.embed_prefix(*(batch[name] for name in OBSERVATION))
    suffix = model.embed_suffix(batch["states"], x_t, t)
    length, tokens = prefix.shape[1], suffix.tokens.shape[1]
    valid = torch.cat((pad, torch.ones(2, tokens, dtype=torch.bool)), dim=1)
    cos, sin = model.llm_expert.angles(valid.cumsum(1) - 1)
    order = torch.cat((torch.zeros(length), torch.ones(tokens)))
    if model.num_state_tokens:
        order[length + 1 :] = 2
    mask = (order[None, :] <= order[:, None]) & valid[:, None, :]
    heads = model.llm_backbone.config
    group = heads.num_attention_heads // heads.num_key_value_heads
    added = additive_mask(mask, group, prefix.dtype)
    x, y = prefix, suffix.tokens
    for vlm, expert in zip(model.llm_backbone.blocks, model.llm_expert.blocks, strict=True):
        q1, k1, v1, gate1 = vlm.project(x, cos[:, :, :length], sin[:, :, :length], None)
        q2, k2, v2, gate2 = expert.project(y, cos[:, :, length:], sin[:, :, length:], suffix.cond)
        q, k, v = (torch.cat(pair, dim=2) for pair in ((q1, q2), (k1, k2), (v1, v2)))
        mixed = attend(q, k, v, added)
        x = vlm.finish(x, mixed[:, :length], gate1, None)
        y = expert.finish(y, mixed[:, length:], gate2, suffix.cond)
    y, _ = model.llm_expert.norm(y, suffix.cond)
    return model.velocity(y[:, model.num_state_tokens :])


@torch.no_grad()
def test_both_networks_run_in_bfloat16_and_agree(model, batch, reference) -> None:
    observation = [batch[name] for name in OBSERVATION]
    noise = torch.randn(2, HORIZON, DIM, generator=torch.Generator().manual_seed(3))

    def chunks() -> tuple[torch.Tensor, torch.Tensor]:
        cache = model.prefix(*observation)
        ours = sample_actions(model, batch["states"], cache, noise, 4)
        peer = reference.TransformersPolicy(model)
        return ours, peer.sample_actions(*observation, batch["states"], noise, 4)

    exact, _ = chunks()
    set_precision(model, "bf16")
    observation[0] = observation[0].bfloat16()
    ours, theirs = chunks()
    assert ours.dtype == theirs.dtype == torch.float32
    error, peer_error = ((chunk - exact).abs().max().item() for chunk in (ours, theirs))
    assert 0 < error <= 3 * peer_error
    velocity = reference.TransformersPolicy(model).velocity(
        *observation, batch["states"], noise, torch.full((2,), 0.7)
    )
    assert velocity.isfinite().all()
