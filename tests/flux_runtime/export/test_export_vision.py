"""Image encoders of `transformers` in a bundle: every family, in every network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

from flux_core.bundle import Bundle
from flux_core.config import bind
from flux_core.deployment import InferenceRunner
from flux_core.models import FlowPolicy
from flux_core.models.layers import VisionBackbone
from flux_core.norm_stats import compute_stats
from flux_runtime.check import check
from flux_runtime.export import TrainedPolicy, export_bundle, load_bundled_policy
from flux_runtime.export.onnx_file import export_graph
from flux_train import recipes

from ...vision_towers import (
    CONFIGS,
    STRIDE,
    in_our_range,
    network_tree,
    patches,
    randomise,
    reference,
    section,
    some_images,
    standardised,
    weights_of,
)

HEIGHT, IMAGE_WIDTH = 96, 128
STRETCHED = dict(interpolate_positions=True)
CASE = ("pi05", "dinov2", STRETCHED)
MORE = [
    ("gr00t", "convnext", {}),
    ("pi0", "siglip_vision_model", STRETCHED),
    ("pi05", "dinov2_with_registers", STRETCHED),
    ("pi0", "dinov3_vit", {}),
    ("gr00t", "dinov3_convnext", {}),
]
UNWANTED = {"IsNaN", "Resize", "Shape", "If", "Loop", "NonZero"}
"""A mask of attention would bring a guard against rows without keys, and the interpolation of
`transformers`, positions that are made again for each image."""


def policy_of(network: str, vision: dict[str, Any], tokens: int) -> TrainedPolicy:
    """A tiny policy of the simulated ALOHA with random weights."""
    policy: Any = "gr00t" if network == "gr00t" else "pi05"
    section = recipes.small_aloha_sim_inference(execution_horizon=4, policy=policy)
    tree = network_tree(network, vision)
    if network == "gr00t":
        prompt = section["dataset"]["transforms"][1]
        prompt |= dict(image_tokens=tokens, max_len=tokens + 40)
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


@pytest.mark.parametrize(
    ("network", "kind", "settings"),
    [CASE, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)],
)
def test_the_bundle_does_what_pytorch_does(
    network: str, kind: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    vision = section(kind, HEIGHT, IMAGE_WIDTH, **settings)
    tokens = HEIGHT * IMAGE_WIDTH // STRIDE**2
    folder = tmp_path / "bundle"
    export_bundle(policy_of(network, vision, tokens), folder, lambda *_: None)
    report: Any = check(folder)
    assert report["ok"] and report["max_abs_error"] < 1e-4
    assert not UNWANTED & set(operators(folder))
    # The bundle alone is enough to export it again.
    again = load_bundled_policy(folder)
    names = again.model.get_submodule("vision_backbone").state_dict().keys()
    assert names and all(name.startswith("model.") for name in names)
    assert Bundle.open(folder).config["model"]["vision_backbone"]["config"]["model_type"] == kind


@pytest.mark.parametrize("kind", sorted(CONFIGS.keys() - {CASE[1]}))
@torch.no_grad()
def test_the_graph_of_each_family_gives_the_tokens_of_transformers(
    kind: str, tmp_path: Path
) -> None:
    theirs, images = reference(kind), some_images(1)
    model = bind(VisionBackbone.Config, section(kind), "model.vision_backbone").build().eval()
    model.model.load_state_dict(weights_of(theirs), strict=False)
    file = tmp_path / "model.safetensors"
    save_file(model.state_dict(), file)
    pixels = in_our_range(images)
    graph = export_graph(model, (pixels,), ["images"], ["tokens"], opset=20, weights_file=file)
    assert not UNWANTED & {node.op_type for node in graph.graph.node}
    onnx.save(graph, tmp_path / "graph.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "graph.onnx")
    (found,) = session.run(None, {"images": pixels.numpy()})
    expected = patches(kind, theirs, standardised(images))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4, rtol=1e-4)
