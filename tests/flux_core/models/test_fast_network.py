"""The network's fast paths: packed projections, compiled graphs, masks shared between steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flux_core.errors import CheckpointError
from flux_core.models import flow_matching_loss, sample_actions
from flux_core.models.layers.basic import additive_mask, attend
from flux_core.models.layers.packing import pack_qkv
from flux_core.models.pi import PI0FlowMatching
from flux_core.models.weights.lora import apply_lora
from flux_core.models.weights.pretrained import load_pretrained

from .test_lora import built as built_with_lora_config
from .test_lora import lora_config
from .test_pi0_to_pi05 import configs


@pytest.fixture(params=[0, 1], ids=["pi0", "pi05"])
def model(request: pytest.FixtureRequest) -> PI0FlowMatching:
    torch.manual_seed(0)
    model = configs()[request.param].build()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def batch_of() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        "images": torch.randn(2, 3, 3, 28, 28),
        "image_masks": torch.tensor([[True, True, True], [True, False, True]]),
        "lang_tokens": torch.randint(0, 50, (2, 5)),
        "lang_masks": torch.tensor([[True] * 5, [True] * 3 + [False] * 2]),
        "states": torch.randn(2, 7),
        "actions": torch.randn(2, 6, 7),
        "action_masks": torch.ones(2, 6, dtype=torch.bool),
    }


def chunk_of(model: PI0FlowMatching) -> torch.Tensor:
    batch = batch_of()
    noise = torch.randn(2, 6, 7, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        cache = model.prefix(
            batch["images"], batch["image_masks"], batch["lang_tokens"], batch["lang_masks"]
        )
    return sample_actions(model, batch["states"], cache, noise, 4)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_fused_attention_is_attention(rows: int, key_heads: int) -> None:
    torch.manual_seed(0)
    b, n, t, s, d = 2, 4, 5, 9, 8
    q, k, v = (torch.randn(b, h, x, d) for h, x in ((n, t), (key_heads, s), (key_heads, s)))
    mask = torch.rand(b, rows, s) < 0.7
    mask[..., 0] = True
    each = n // key_heads
    scores = q @ k.repeat_interleave(each, 1).transpose(-1, -2) / d**0.5
    weights = scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1)
    expected = (weights @ v.repeat_interleave(each, 1)).transpose(1, 2).flatten(2)
    torch.testing.assert_close(
        attend(q, k, v, additive_mask(mask, each, q.dtype)), expected, atol=1e-6, rtol=1e-5
    )


def test_packed_projections_give_the_same_result(model: PI0FlowMatching, tmp_path: Path) -> None:
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    expected, parameters = chunk_of(model), sum(p.numel() for p in model.parameters())
    packed = model.config.build()
    load_pretrained(packed, tmp_path, packed=True)
    names = {name for name, _ in packed.named_parameters()}
    assert not any(name.endswith("q_proj.weight") for name in names)
    assert sum(p.numel() for p in packed.parameters()) == parameters
    torch.testing.assert_close(chunk_of(packed), expected, atol=1e-5, rtol=1e-5)
    assert pack_qkv(packed) == 0


def test_adapters_must_be_merged_before_packing() -> None:
    model = built_with_lora_config(lora_config())
    apply_lora(model)
    with pytest.raises(CheckpointError, match="Merge LoRA first"):
        pack_qkv(model)


def test_loss_and_gradient_compile_into_one_graph(model: PI0FlowMatching) -> None:
    """`fullgraph=True` raises at the first graph break."""
    batch = batch_of()

    def loss() -> torch.Tensor:
        return flow_matching_loss(model, batch).loss

    torch._dynamo.reset()
    torch.manual_seed(3)
    torch.compile(loss, fullgraph=True, backend="aot_eager")().backward()
    compiled = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    torch.manual_seed(3)
    loss().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(compiled[name], parameter.grad, atol=1e-4, rtol=1e-4)


def test_a_whole_chunk_compiles_into_one_graph(model: PI0FlowMatching) -> None:
    torch._dynamo.reset()
    batch = batch_of()

    def chunk(noise: torch.Tensor) -> torch.Tensor:
        cache = model.prefix(
            batch["images"], batch["image_masks"], batch["lang_tokens"], batch["lang_masks"]
        )
        return sample_actions(model, batch["states"], cache, noise, 4)

    noise = torch.randn(2, 6, 7)
    found = torch.compile(chunk, fullgraph=True, backend="eager")(noise)
    torch.testing.assert_close(found, chunk(noise).detach(), atol=1e-5, rtol=1e-5)


def test_masks_and_angles_are_computed_once_per_chunk(
    model: PI0FlowMatching, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    original = model.suffix_context
    monkeypatch.setattr(model, "suffix_context", lambda *args: calls.append(1) or original(*args))
    chunk_of(model)
    assert len(calls) == 1
