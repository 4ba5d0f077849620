"""From a bundle on disk to a plan, and which bundles are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flux_core.bundle import Bundle
from flux_core.policy_io import PolicyIO
from flux_runtime.cuda.pi import StoredTensors, check_plan, describe_bundle, make_plan
from flux_runtime.cuda.support import refusal

from .interpreter import PlanRunner, relative_error


@pytest.mark.parametrize("kind", ["pi0", "pi05"])
def test_a_bundles_plan_gives_its_golden_actions(
    kind: str, exported: Callable[..., tuple[Bundle, Any]]
) -> None:
    bundle, _ = exported(kind, precision="bf16")
    assert refusal(bundle) == ""
    tensors = StoredTensors(bundle.directory)
    description = describe_bundle(bundle, tensors, PolicyIO.from_bundle(bundle))
    golden = bundle.golden()
    inputs = {name.removeprefix("input."): value for name, value in golden.items()}
    num_tokens = int(inputs["lang_masks"].sum())
    cameras = len(bundle.manifest.cameras)
    plan = make_plan(description, cameras, num_tokens, arch="")
    assert check_plan(plan) == []
    actions = PlanRunner(plan, tensors.read).run(
        {
            "images": inputs["images"][0],
            "cameras": np.arange(cameras),
            "tokens": inputs["lang_tokens"][0, :num_tokens],
            "num_tokens": [num_tokens],
            "state": inputs["state"][0] if "state" in inputs else np.empty(0),
            "noise": inputs["noise"][0],
            "known": np.full_like(inputs["noise"][0], np.nan),
            "num_known": [0],
        }
    )
    assert relative_error(actions, golden["output.actions"][0]) < 0.02


CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gr00t": (dict(model="gr00t"), {}),
    "fp32": (dict(precision="fp32"), {}),
    "int8": (dict(precision="int8"), {}),
    "ConvBackbone": ({}, dict(vision_backbone=dict(type="ConvBackbone"))),
    "TransformersVisionBackbone": (
        {},
        dict(vision_backbone=dict(type="TransformersVisionBackbone")),
    ),
    "num_channels": (
        {},
        dict(vision_backbone=dict(type="SigLIPViTBackbone", vision_config=dict(num_channels=1))),
    ),
    "action_smoothing": ({}, dict(action_smoothing=2.0)),
    "actions_per_token": ({}, dict(actions_per_token=2)),
    "head_dim": ({}, dict(llm_expert=dict(head_dim=48))),
}


@pytest.mark.parametrize("name", CHANGES)
def test_other_bundles_are_refused_by_name(
    name: str, exported: Callable[..., tuple[Bundle, Any]]
) -> None:
    bundle, _ = exported("pi05", precision="bf16")
    manifest, model = CHANGES[name]
    config: Any = bundle.config
    other = replace(
        bundle,
        manifest=replace(bundle.manifest, **manifest),
        config={**config, "model": {**config["model"], **model}},
    )
    assert name in refusal(other)
