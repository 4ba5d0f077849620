"""A pi0.5 that starts from a pi0: LeRobot's renaming, and blocks that compute as before."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flux_core.cli import main
from flux_core.errors import CheckpointError
from flux_core.models import LinearProjector, SigLIPVisionConfig, SigLIPViTBackbone
from flux_core.models.pi import ConditionGemmaModel, PI0FlowMatching, PI05FlowMatching
from flux_core.models.weights.pretrained import load_pretrained

WIDTH = 24


def configs() -> tuple[PI0FlowMatching.Config, PI05FlowMatching.Config]:
    gemma = ConditionGemmaModel.Config(
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        head_dim=8,
        vocab_size=50,
    )
    expert = dataclasses.replace(gemma, hidden_size=WIDTH, vocab_size=None)
    vision = SigLIPVisionConfig(
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=28,
    )
    shared = dict(
        vision_backbone=SigLIPViTBackbone.Config(vision_config=vision),
        projector=LinearProjector.Config(in_dim=16, out_dim=32),
        llm_backbone=gemma,
        proj_width=WIDTH,
        n_action_steps=6,
        action_in_proj=LinearProjector.Config(in_dim=7, out_dim=WIDTH),
        action_out_proj=LinearProjector.Config(in_dim=WIDTH, out_dim=7),
    )
    state = LinearProjector.Config(in_dim=7, out_dim=WIDTH)
    adarms = dataclasses.replace(expert, use_adarms=True, adarms_cond_dim=WIDTH)
    return (
        PI0FlowMatching.Config(**shared, llm_expert=expert, state_proj=state),
        PI05FlowMatching.Config(**shared, llm_expert=adarms),
    )


@pytest.fixture
def pi0(tmp_path: Path) -> tuple[PI0FlowMatching, Path]:
    torch.manual_seed(0)
    model = configs()[0].build()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    path = tmp_path / "pi0.safetensors"
    save_file(model.state_dict(), path, metadata={"project": "flux"})
    return model, path


def test_weights_are_taken_over_as_lerobot_renames_them(
    pi0: tuple[PI0FlowMatching, Path],
) -> None:
    source, path = pi0
    weights, model = source.state_dict(), configs()[1].build()
    assert load_pretrained(model, path, from_kind="pi0") == []
    found = model.state_dict()
    assert not any(name.startswith("state_proj") for name in found)
    for name in ("in.projector.bias", "out.projector.weight", "out.projector.bias"):
        assert torch.equal(found[f"time_mlp_{name}"], weights[f"action_time_mlp_{name}"])
    # The first layer read [action; time]; the half that read the time is kept.
    time_half = weights["action_time_mlp_in.projector.weight"][:, WIDTH:]
    assert torch.equal(found["time_mlp_in.projector.weight"], time_half)
    for name in set(weights) & set(found):
        assert torch.equal(found[name], weights[name]), name


def test_the_experts_blocks_compute_the_same_as_in_pi0(pi0: tuple[PI0FlowMatching, Path]) -> None:
    source, path = pi0
    model = configs()[1].build()
    load_pretrained(model, path, from_kind="pi0")
    x, cond = torch.randn(2, 5, WIDTH), torch.randn(2, 1, WIDTH)
    cos, sin = torch.ones(2, 1, 5, 4), torch.zeros(2, 1, 5, 4)
    for old, new in zip(source.llm_expert.blocks, model.llm_expert.blocks, strict=True):
        *expected, no_gate = old.project(x, cos, sin, None)
        *found, gate = new.project(x, cos, sin, cond)
        assert no_gate is None and gate is not None and torch.equal(gate, torch.ones_like(gate))
        torch.testing.assert_close(found, expected)
        mixed = torch.randn(2, 5, 32)
        torch.testing.assert_close(
            new.finish(x, mixed, gate, cond), old.finish(x, mixed, None, None)
        )


def test_a_pi0_is_converted_only_on_request(pi0: tuple[PI0FlowMatching, Path]) -> None:
    _, path = pi0
    model = configs()[1].build()
    with pytest.raises(CheckpointError, match=r"from a pi0, set pretrained_from_pi0=True"):
        load_pretrained(model, path)


def test_a_pi05_is_not_converted_again(tmp_path: Path) -> None:
    model = configs()[1].build()
    path = tmp_path / "pi05.safetensors"
    save_file(model.state_dict(), path)
    with pytest.raises(CheckpointError, match=r"expected a pi0 to turn into a pi05, got a pi05"):
        load_pretrained(model, path, from_kind="pi0")


def test_the_command_writes_a_pi05_that_loads_strictly(
    pi0: tuple[PI0FlowMatching, Path], tmp_path: Path
) -> None:
    _, path = pi0
    out = tmp_path / "pi05"
    assert main(["convert", str(path), "--to", "lerobot", "--pi05", "--out", str(out)]) == 0
    assert any("time_mlp_in" in name for name in load_file(out / "model.safetensors"))
    assert load_pretrained(configs()[1].build(), out) == []
