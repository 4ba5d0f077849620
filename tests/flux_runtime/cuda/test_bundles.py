"""Which bundles are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from flux_core.bundle import Bundle
from flux_runtime.cuda.support import refusal

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
    assert refusal(bundle) == ""
    manifest, model = CHANGES[name]
    config: Any = bundle.config
    other = replace(
        bundle,
        manifest=replace(bundle.manifest, **manifest),
        config={**config, "model": {**config["model"], **model}},
    )
    assert name in refusal(other)
