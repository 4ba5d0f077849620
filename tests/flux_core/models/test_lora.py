"""LoRA: the trained parameters, merged weights compared with peft's, and files that peft reads."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from flux_core.config import bind
from flux_core.errors import CheckpointError, ConfigError
from flux_core.models import flow_matching_loss
from flux_core.models.pi import PI05FlowMatching
from flux_core.models.weights.lora import apply_lora, load_adapter, merged_weights, save_adapter
from flux_train import recipes

# As in FluxVLA's LoRA config for LIBERO, for the parts that the small network has.
TARGETS = [
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "projector.projector",
]
SAVED = ["action_in_proj", "action_out_proj", "time_mlp_in", "time_mlp_out"]


def lora_config(**settings: Any) -> PI05FlowMatching.Config:
    tree = recipes.small_pi05_model(action_horizon=8, width=32) | dict(
        use_lora=True,
        lora_rank=4,
        lora_alpha=8,
        lora_target_modules=TARGETS,
        modules_to_save=SAVED,
    )
    return bind(PI05FlowMatching.Config, tree | settings, "model")


def built(config: PI05FlowMatching.Config) -> PI05FlowMatching:
    """The plain network with weights that have an effect everywhere."""
    torch.manual_seed(0)
    model = config.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def batch_for(config: PI05FlowMatching.Config) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    steps, dims = config.n_action_steps, config.action_dim
    size = config.vision_backbone.image_size
    return {
        "images": torch.randn(2, 1, 3, *size, generator=generator),
        "image_masks": torch.ones(2, 1, dtype=torch.bool),
        "lang_tokens": torch.randint(4, 200, (2, 6), generator=generator),
        "lang_masks": torch.ones(2, 6, dtype=torch.bool),
        "states": torch.zeros(2, dims),
        "actions": torch.randn(2, steps, dims, generator=generator),
        "action_masks": torch.ones(2, steps, dtype=torch.bool),
    }


def loss_of(model: PI05FlowMatching) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return flow_matching_loss(model, batch_for(model.config), generator=generator).loss


def trained(config: PI05FlowMatching.Config, steps: int = 3) -> PI05FlowMatching:
    model = built(config)
    apply_lora(model)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    return model


def test_adapters_change_nothing_before_the_first_step() -> None:
    model = built(lora_config())
    before = loss_of(model)
    apply_lora(model)
    assert torch.equal(loss_of(model), before)


def test_only_adapters_and_saved_modules_are_trained() -> None:
    config = lora_config()
    start, model = built(config).state_dict(), trained(config)
    for name, parameter in model.named_parameters():
        is_adapter = ".lora_" in name or ".modules_to_save." in name
        assert parameter.requires_grad == is_adapter, name
    changed = {
        k for k, v in merged_weights(model.state_dict(), config).items() if not v.equal(start[k])
    }
    linear = {f"{n}.weight" for n, m in built(config).named_modules() if n.endswith(tuple(TARGETS))}
    saved = {k for k in start if k.split(".")[0] in SAVED}
    assert changed == (linear | saved) - _unreached(config)


def _unreached(config: PI05FlowMatching.Config) -> set[str]:
    """Parameters without effect: only keys and values of the prefix's last layer are read."""
    last = f"llm_backbone.layers.{config.llm_backbone.num_hidden_layers - 1}"
    names = ("self_attn.q_proj", "self_attn.o_proj")
    names += ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    return {f"{last}.{name}.weight" for name in names}


def test_merged_weights_give_a_plain_network_with_the_same_result() -> None:
    config = lora_config()
    model, plain = trained(config), config.build()
    merged = merged_weights(model.state_dict(), config)
    plain.load_state_dict(merged)
    torch.testing.assert_close(loss_of(plain), loss_of(model), atol=1e-5, rtol=1e-5)
    assert merged_weights(merged, config).keys() == merged.keys()


def test_peft_reads_the_saved_adapter_and_merges_it_to_the_same_weights(tmp_path: Path) -> None:
    config = lora_config()
    model = trained(config)
    save_adapter(model, tmp_path)
    theirs: Any = peft.PeftModel.from_pretrained(built(config), str(tmp_path))
    assert torch.equal(loss_of(theirs.base_model.model), loss_of(model))
    merged = theirs.merge_and_unload().state_dict()
    ours = merged_weights(model.state_dict(), config)
    assert merged.keys() == ours.keys()
    for name, value in merged.items():
        torch.testing.assert_close(ours[name], value, atol=0.0, rtol=1e-6)


def test_a_saved_adapter_can_be_loaded(tmp_path: Path) -> None:
    config = lora_config()
    model, again = trained(config), built(config)
    save_adapter(model, tmp_path)
    apply_lora(again)
    load_adapter(again, tmp_path)
    assert torch.equal(loss_of(again), loss_of(model))


def test_an_adapter_of_another_rank_or_target_is_refused(tmp_path: Path) -> None:
    save_adapter(trained(lora_config(), steps=0), tmp_path)
    other = built(lora_config(lora_rank=2))
    apply_lora(other)
    with pytest.raises(CheckpointError, match=r"expected shape \(2, .*got \(4, "):
        load_adapter(other, tmp_path)
    other = built(lora_config(lora_target_modules=["q_proj"]))
    apply_lora(other)
    with pytest.raises(CheckpointError, match="is unexpected; was it made with other LoRA"):
        load_adapter(other, tmp_path)
    with pytest.raises(CheckpointError, match="not found"):
        load_adapter(other, tmp_path / "nowhere")


def test_a_frozen_part_gets_no_adapter() -> None:
    model = built(lora_config(freeze_vlm_backbone=True))
    apply_lora(model)
    parts = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert parts == {"llm_expert", *SAVED}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(lora_target_modules=["q_project"]), "no module is called 'q_project'"),
        (dict(lora_target_modules=["norm"]), "expected linear layers, but 'norm' reaches"),
        (dict(modules_to_save=["state_proj"]), "modules_to_save: no module is called"),
        (
            dict(lora_target_modules=["projector.projector"], freeze_projector=True),
            "are in frozen parts (projector); nothing would be trained",
        ),
    ],
)
def test_a_module_name_that_cannot_be_used_is_an_error(
    settings: dict[str, Any], message: str
) -> None:
    model = lora_config(**settings).build()
    with pytest.raises(ConfigError) as error:
        apply_lora(model)
    assert message in str(error.value)


def test_impossible_ranks_are_refused_by_the_config() -> None:
    with pytest.raises(ConfigError, match=r"^model\.lora_rank: expected at least 1, got 0"):
        lora_config(lora_rank=0)
    with pytest.raises(ConfigError, match=r"^model\.lora_alpha: expected at least 1, got -1"):
        lora_config(lora_alpha=-1)
    with pytest.raises(ConfigError, match=r"^model\.lora_dropout: expected 0 <= share < 1"):
        lora_config(lora_dropout=1.0)
    assert dataclasses.replace(lora_config(), lora_rank=1).lora_rank == 1
