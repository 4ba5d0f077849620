"""Image encoders of `transformers` in a bundle: every family, in every network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from flux_core.bundle import Bundle
from flux_core.config import bind
from flux_core.deployment import InferenceRunner
from flux_core.models import FlowPolicy
from flux_core.norm_stats import compute_stats
from flux_runtime.check import check
from flux_runtime.export import TrainedPolicy, export_bundle, load_bundled_policy
from flux_train import recipes

from ...vision_towers import CONFIGS, STRIDE, WIDTH, randomise, section

HEIGHT, IMAGE_WIDTH = 96, 128
STRETCHED = dict(interpolate_positions=True)
CASES = [
    ("pi0", "siglip_vision_model", STRETCHED),
    ("pi05", "dinov2", STRETCHED),
    ("pi05", "dinov2_with_registers", STRETCHED),
    ("pi05", "dinov3_vit", {}),
    ("gr00t", "dinov3_convnext", {}),
    ("gr00t", "dinov2", STRETCHED),
    ("pi0", "convnext", {}),
]


def policy_of(network: str, vision: dict[str, Any], tokens: int) -> TrainedPolicy:
    """A tiny policy of the simulated ALOHA with random weights."""
    policy: Any = "gr00t" if network == "gr00t" else "pi05"
    section = recipes.small_aloha_sim_inference(execution_horizon=4, policy=policy)
    if network == "gr00t":
        tree: dict[str, Any] = recipes.small_gr00t_model(action_horizon=8, width=32, depth=2)
        tree |= dict(vision_backbone=vision, projector=dict(tree["projector"], in_dim=WIDTH))
        prompt = section["dataset"]["transforms"][1]
        prompt |= dict(image_tokens=tokens, max_len=tokens + 40)
    else:
        tree = recipes.small_pi05_model(
            action_horizon=8, width=32, depth=1, vision_backbone=vision
        )
    if network == "pi0":
        plain = {k: v for k, v in tree["llm_expert"].items() if "adarms" not in k}
        state = dict(type="LinearProjector", in_dim=14, out_dim=32)
        tree |= dict(type="PI0FlowMatching", llm_expert=plain, state_proj=state)
    tree["num_inference_steps"] = 2
    torch.manual_seed(0)
    model = bind(FlowPolicy.Config, tree, "model").build().eval()
    randomise(model.vision_backbone)
    random = np.random.default_rng(0)
    numbers = {
        name: compute_stats(random.uniform(-1, 1, (100, 14))) for name in ("proprio", "action")
    }
    return TrainedPolicy(
        model=model,
        inference=bind(InferenceRunner, section, "inference"),
        config={"model": tree, "inference": section},
        norm_stats={"aloha-sim": numbers},
        provenance={"weights": "random"},
        training_log=None,
    )


def operators(folder: Path) -> Iterator[str]:
    for name in ("prefix.onnx", "denoise.onnx"):
        graph = onnx.load(folder / name, load_external_data=False).graph
        assert not any(d.dim_param for i in graph.input for d in i.type.tensor_type.shape.dim)
        yield from (node.op_type for node in graph.node)


@pytest.mark.parametrize(("network", "kind", "settings"), CASES)
def test_the_bundle_does_what_pytorch_does(
    network: str, kind: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    vision = section(kind, HEIGHT, IMAGE_WIDTH, **settings)
    tokens = HEIGHT * IMAGE_WIDTH // STRIDE**2
    folder = tmp_path / "bundle"
    export_bundle(policy_of(network, vision, tokens), folder, lambda *_: None)
    report: Any = check(folder)
    assert report["ok"] and report["max_abs_error"] < 1e-4
    # A mask of attention would bring a guard against rows without keys, and resizing, positions
    # that are made again for each image.
    assert not {"IsNaN", "Resize", "Where", "Shape"} & set(operators(folder))
    # The bundle alone is enough to export it again.
    again = load_bundled_policy(folder)
    names = again.model.vision_backbone.state_dict().keys()
    assert names and all(name.startswith("model.") for name in names)
    assert Bundle.open(folder).config["model"]["vision_backbone"]["config"]["model_type"] == kind


def test_every_family_is_exported_and_every_network_exports_one() -> None:
    assert {kind for _, kind, _ in CASES} == set(CONFIGS)
    assert {network for network, _, _ in CASES} == {"pi0", "pi05", "gr00t"}
