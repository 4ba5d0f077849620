"""The shapes of the published networks, with few layers."""

from __future__ import annotations

from typing import Any

import pytest

from flux_core.models.pi.sizes import Kind, sized_model
from flux_runtime.cuda.pi import make_plan

from .interpreter import PlanRunner, relative_error
from .networks import Exported, observation
from .test_inference import KINDS


def few_layers(kind: Kind) -> dict[str, Any]:
    """Full widths, heads and pictures; few layers, words and steps."""
    tree = sized_model(kind, "full")
    for part in ("llm_backbone", "llm_expert"):
        tree[part]["num_hidden_layers"] = 2
    tree["llm_backbone"]["vocab_size"] = 1024
    tree["vision_backbone"]["vision_config"] = dict(num_hidden_layers=1)
    tree["num_inference_steps"] = 2
    return tree


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_full_widths_in_bfloat16_are_as_good_as_pytorchs(kind: Kind) -> None:
    network = Exported(few_layers(kind), "bf16", live_dims=32)
    given = observation(network.model.config, bucket=16, num_tokens=11, state_dim=32)
    plan = make_plan(network.description, 3, 16, arch="")
    wanted = network.reference(given)
    ours = relative_error(PlanRunner(plan, network.read).run(given.plan_inputs), wanted)
    theirs = relative_error(network.actions(given), wanted)
    assert ours < 1.5 * theirs, f"{ours:.2e}, PyTorch {theirs:.2e}"
