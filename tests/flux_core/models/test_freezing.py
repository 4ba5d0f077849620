"""Each freeze flag freezes its part, and training changes exactly the other parts."""

from __future__ import annotations

import pytest
import torch

from flux_core.config import bind
from flux_core.models import flow_matching_loss
from flux_core.models.pi import PI05FlowMatching
from flux_train import recipes

FROZEN = {
    "freeze_vision_backbone": {"vision_backbone"},
    "freeze_llm_backbone": {"llm_backbone"},
    "freeze_projector": {"projector"},
    "freeze_vlm_backbone": {"vision_backbone", "projector", "llm_backbone"},
    "freeze_llm_expert": {"llm_expert"},
}


def batch_for(model: PI05FlowMatching) -> dict[str, torch.Tensor]:
    config = model.config
    return {
        "images": torch.randn(2, 1, 3, *config.vision_backbone.image_size),
        "image_masks": torch.ones(2, 1, dtype=torch.bool),
        "lang_tokens": torch.randint(4, 200, (2, 6)),
        "lang_masks": torch.ones(2, 6, dtype=torch.bool),
        "states": torch.zeros(2, config.action_dim),
        "actions": torch.randn(2, config.n_action_steps, config.action_dim),
        "action_masks": torch.ones(2, config.n_action_steps, dtype=torch.bool),
    }


@pytest.mark.parametrize("flag", FROZEN)
def test_a_frozen_part_does_not_change_and_every_other_does(flag: str) -> None:
    torch.manual_seed(0)
    tree = recipes.small_pi05_model(action_horizon=8, width=32) | {flag: True}
    model = bind(PI05FlowMatching.Config, tree, "model").build()
    with torch.no_grad():  # no zero gates, which would hide gradients
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=1.0)
    flow_matching_loss(model, batch_for(model)).loss.backward()
    optimizer.step()
    changed = {
        name.split(".")[0]
        for name, value in model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert (
        changed
        == {name for name, _ in model.named_children() if name != "time_embedding"} - (FROZEN[flag])
    )
