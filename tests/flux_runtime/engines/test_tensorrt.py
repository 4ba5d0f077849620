"""The exported graphs in TensorRT's parser and builder, which TensorRT-RTX has without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flux_core.bundle.bundle import Bundle
from flux_runtime.export.options import ExportOptions
from flux_runtime.export.source.policy import TrainedPolicy
from flux_runtime.export.writer import export_bundle

from ..conftest import Exported

trt: Any = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")


def build(graph: Path) -> int:
    """Builds a graph for an RTX 4090, with the types of the graph; returns the plan's bytes."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(graph))
    assert parsed, [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None, f"{graph.name} cannot be built"
    return int(plan.nbytes)


@pytest.mark.parametrize(
    ("kind", "precision"), [("pi0", "fp32"), ("pi0", "bf16"), ("pi05", "fp32"), ("pi05", "bf16")]
)
def test_exported_graphs_are_built_by_tensorrt(
    kind: str, precision: str, exported: Exported
) -> None:
    bundle, _ = exported(kind, precision=precision)
    for name in ("prefix", "denoise"):
        assert build(bundle.path(bundle.manifest.graphs[name].file)) > 10_000


def test_the_graphs_of_the_shipped_policy_are_built_by_tensorrt() -> None:
    from flux_runtime.control.session import shipped_policy

    bundle = Bundle.open(shipped_policy("aloha-sim"))
    for name in ("prefix", "denoise"):
        assert build(bundle.path(bundle.manifest.graphs[name].file)) > 10_000


def test_float8_graphs_are_built_by_tensorrt(
    small_policy: Callable[[str], TrainedPolicy], ur3_dataset: Path, tmp_path: Path
) -> None:
    pytest.importorskip("openvino", reason="openvino, which verifies fp8, is not installed")
    policy = small_policy("pi05")
    policy.model.action_out_proj.projector.weight.data *= 0.25  # untrained, and too coarse
    options = ExportOptions(precision="fp8", calibrate=(str(ur3_dataset),), calibration_samples=2)
    export_bundle(policy, tmp_path / "b", lambda *step: None, options)
    bundle = Bundle.open(tmp_path / "b")
    for name in ("prefix", "denoise"):
        assert build(bundle.path(bundle.manifest.graphs[name].file)) > 10_000
