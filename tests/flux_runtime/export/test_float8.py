"""fp8: linear layers in float8, with ranges from a dataset's observations."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn

from flux_core.bundle.bundle import Bundle
from flux_core.errors import ExportError, UsageError
from flux_core.robots import robot_spec
from flux_runtime.export.cli import main
from flux_runtime.export.options import ExportOptions
from flux_runtime.export.precision.calibration import read_observations, recorded_inputs
from flux_runtime.export.precision.float8 import LARGEST, Float8Linear, scale_for
from flux_runtime.export.sessions import verifying_engine
from flux_runtime.export.source.policy import TrainedPolicy
from flux_runtime.export.verify import replay
from flux_runtime.export.writer import export_bundle

from ..conftest import Exported

ml_dtypes: Any = pytest.importorskip("ml_dtypes", reason="onnx brings it")

MakePolicy = Callable[[str], TrainedPolicy]
CAMERAS = robot_spec("ur3").cameras


@pytest.fixture(scope="module")
def fp8_bundle(
    small_policy: MakePolicy, ur3_dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    policy = small_policy("pi0")
    policy.model.action_out_proj.projector.weight.data *= 0.25  # untrained, and too coarse
    out = tmp_path_factory.mktemp("fp8") / "b"
    options = ExportOptions(precision="fp8", calibrate=(str(ur3_dataset),), calibration_samples=3)
    export_bundle(policy, out, lambda *step: None, options)
    return Bundle.open(out)


def test_a_layer_is_what_ml_dtypes_computes() -> None:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    linear = nn.Linear(48, 64)
    x = 3 * torch.randn(1, 10, 48, generator=generator)
    largest = 2.0  # so that some inputs exceed it
    layer = Float8Linear(linear, largest, torch.float32)

    def rounded(value: np.ndarray, most: np.ndarray | float) -> np.ndarray:
        scale = np.exp2(np.ceil(np.log2(np.asarray(most, np.float32) / 448)))
        eight = np.clip(value / scale, -448, 448).astype(ml_dtypes.float8_e4m3fn)
        return eight.astype(np.float32) * scale

    weight = linear.weight.detach().numpy()
    weight8 = rounded(weight, np.abs(weight).max(axis=1, keepdims=True))
    expected = rounded(x.numpy(), largest) @ weight8.T + linear.bias.detach().numpy()
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, atol=1e-5)
    near = linear(x.clamp(-largest, largest))
    assert (layer(x.clamp(-largest, largest)) - near).abs().max() < 0.1 * near.abs().max()


@given(st.floats(min_value=1e-12, max_value=1e12))
def test_a_scale_is_the_smallest_power_of_two_that_fits(largest: float) -> None:
    scale = float(scale_for(torch.tensor(largest, dtype=torch.float64)))
    assert np.log2(scale) == round(np.log2(scale))
    assert np.float32(largest) / scale <= LARGEST
    assert np.float32(largest) / (scale / 2) > LARGEST or scale == 2.0**-60


def test_calibration_learns_the_largest_input_of_each_layer_that_is_run() -> None:
    network: Any = nn.ModuleDict(
        {"a": nn.Linear(4, 4), "b": nn.Linear(4, 2), "idle": nn.Linear(4, 4)}
    )
    batches = [torch.randn(3, 4), 5 * torch.randn(3, 4), torch.randn(3, 4)]
    with torch.no_grad(), recorded_inputs(network) as largest:
        middle = [network["a"](x) for x in batches]
        for x in middle:
            network["b"](x)
    network["a"](100 * batches[0])
    assert largest.keys() == {"a", "b"}
    assert largest["a"] == max(float(x.abs().max()) for x in batches)
    assert largest["b"] == max(float(x.abs().max()) for x in middle)


def test_observations_are_the_datasets_frames(ur3_dataset: Path) -> None:
    found = read_observations([str(ur3_dataset)], CAMERAS, 3)
    import pyarrow.parquet as pq

    (file,) = ur3_dataset.glob("data/*/*.parquet")
    states = np.array(pq.read_table(file)["observation.state"].to_pylist(), np.float32)
    for observation, row in zip(found, (1, 5, 9), strict=True):
        np.testing.assert_array_equal(observation.state, states[row])
        assert observation.prompt == "push the box"
        assert {image.shape for image in observation.images.values()} == {(64, 64, 3)}
        assert set(observation.images) == set(CAMERAS)


def test_every_dataset_gives_its_part_of_the_observations(ur3_dataset: Path) -> None:
    found = read_observations([str(ur3_dataset), f"{ur3_dataset}/"], CAMERAS, 5)
    apart = [read_observations([str(ur3_dataset)], CAMERAS, count) for count in (3, 2)]
    expected = [observation.state for part in apart for observation in part]
    np.testing.assert_array_equal([observation.state for observation in found], expected)


def test_the_graphs_multiply_in_float8_and_the_actions_stay_float32(fp8_bundle: Bundle) -> None:
    for name in ("prefix", "denoise"):
        onnx.checker.check_model(fp8_bundle.path(f"{name}.onnx"))
        graph = onnx.load(fp8_bundle.path(f"{name}.onnx"), load_external_data=False)
        assert any(node.op_type == "QuantizeLinear" for node in graph.graph.node)
    with safe_open(fp8_bundle.path("model.safetensors"), "pt") as file:
        dtypes = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    eight = {name for name, dtype in dtypes.items() if dtype == "F8_E4M3"}
    assert any(name.startswith("llm_expert.layers") for name in eight)
    assert any(name.startswith("vision_backbone") for name in eight)
    assert not any(name.startswith(("action_", "state_proj", "time_mlp")) for name in eight)
    ends = {entry.name: entry.dtype for entry in fp8_bundle.manifest.graphs["denoise"].outputs}
    assert ends == {"x_next": "float32", "t_next": "float32"}


def test_fp8_is_verified_without_openvino_too(
    fp8_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fp8_bundle.golden()["output.actions"]
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "openvino", None)
        assert verifying_engine(fp8_bundle) == "ONNX Runtime with emulated bfloat16"
        found = replay(fp8_bundle)["actions"]
    assert np.abs(found - expected).max() <= fp8_bundle.manifest.tolerance


def test_the_report_says_how_far_the_actions_move(fp8_bundle: Bundle) -> None:
    report = json.loads(fp8_bundle.path("report.json").read_text())
    assert fp8_bundle.manifest.precision == "fp8" and report["engine"] == verifying_engine(
        fp8_bundle
    )
    assert 0 < report["max_abs_error"] <= report["tolerance"] == fp8_bundle.manifest.tolerance
    assert 1e-4 < report["own_error"] <= 0.05


def test_a_policy_that_float8_is_too_coarse_for_is_refused_with_the_figures(
    small_policy: MakePolicy, ur3_dataset: Path, tmp_path: Path
) -> None:
    policy = small_policy("pi0")
    policy.model.action_out_proj.projector.weight.data *= 4
    options = ExportOptions(precision="fp8", calibrate=(str(ur3_dataset),), calibration_samples=1)
    with pytest.raises(ExportError, match=r"too coarse .* move by at most \d"):
        export_bundle(policy, tmp_path / "b", lambda *step: None, options)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "fp8"},
        {"precision": "fp32", "calibrate": ("set",)},
        {"precision": "fp8", "calibrate": ("set",), "calibration_samples": 0},
        {"precision": "bf16", "calibrate": ("set", "another"), "calibration_samples": 1},
    ],
)
def test_calibration_belongs_to_the_precisions_that_need_it(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--calibrat"):
        ExportOptions(**options)


@pytest.mark.parametrize(
    ("cameras", "count", "expected"),
    [
        (CAMERAS, 12, "expected 1 to 11 samples"),
        (("elbow",), 1, "observation.images.elbow"),
    ],
)
def test_a_dataset_that_does_not_fit_is_refused_in_one_line(
    ur3_dataset: Path, cameras: tuple[str, ...], count: int, expected: str
) -> None:
    with pytest.raises(ExportError, match=expected) as error:
        read_observations([str(ur3_dataset)], cameras, count)
    assert str(error.value).startswith("--calibrate: ") and "\n" not in str(error.value)


def test_the_command_names_a_dataset_that_is_not_there(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, _ = exported("pi0")
    command = [str(bundle.directory), "--out", str(tmp_path / "c"), "--precision", "fp8"]
    assert main([*command, "--calibrate", str(tmp_path / "none")]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--calibrate" in line and str(tmp_path / "none") in line
    assert not (tmp_path / "c").exists()
