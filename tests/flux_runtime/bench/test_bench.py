"""`flux-runtime bench`: what it times, what it refuses, and how it computes its floor."""

from __future__ import annotations

import ctypes
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from flux_core.bundle.bundle import GOLDEN_NAME, Bundle, write_manifest
from flux_core.errors import MissingDependencyError
from flux_runtime.bench.measure import STAGES, histogram_between
from flux_runtime.bench.roofline import Speeds, floor_ms, processor_speeds
from flux_runtime.cli import main
from flux_runtime.control.latency import histogram_of
from flux_runtime.engines import nvidia
from flux_runtime.run.command import shipped_policy

pytest.importorskip("flux_runtime._core", reason="the C++ core was not built")

SHIPPED = str(shipped_policy("aloha-sim"))
TIMES = st.floats(min_value=0.01, max_value=1e3)


def bench(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main(["bench", *arguments, "--repeat", "3", "--warm-up", "2", "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_every_stage_of_an_engine_is_counted_once_per_chunk(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "bench.json"
    code, report = bench(capsys, SHIPPED, "--engine", "onnxruntime", "--out", str(out))
    assert code == 0 and report == json.loads(out.read_text())
    (engine,) = report["engines"].values()
    stages = engine["stages"]
    counts = {name: times["count"] for name, times in stages.items()}
    assert counts == {"copy_in": 3, "prefix": 3, "step": 30, "denoise": 3, "total": 3}
    for times in stages.values():
        assert 0 < times["p50_ms"] <= times["p95_ms"] <= times["p99_ms"] <= times["max_ms"]
    assert engine["max_abs_error"] < 1e-4
    assert 1.0 <= engine["loop_over_steps"] < 1.5
    assert stages["total"]["p50_ms"] > stages["prefix"]["p50_ms"]
    assert report["preprocess"]["count"] > 0 and report["hardware"]["cores"]


def test_an_engine_that_this_machine_lacks_fails_and_the_others_are_timed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvidia, "has_card", lambda: False)
    code, report = bench(capsys, "--engine", "onnxruntime", "onnxruntime-cuda", "--threads", "1",
                         SHIPPED)  # fmt: skip
    assert code == 1
    assert report["engines"]["onnxruntime"]["ok"]
    refused = report["engines"]["onnxruntime-cuda"]
    assert not refused["ok"] and "stages" not in refused and "driver" in refused["reason"]


def test_an_engine_that_misses_the_golden_is_refused_and_not_timed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    off = Path(shutil.copytree(SHIPPED, tmp_path / "off"))
    golden = load_file(off / GOLDEN_NAME)
    save_file(golden | {"output.actions": golden["output.actions"] + 0.1}, off / GOLDEN_NAME)
    write_manifest(off, Bundle.open(off, verify=False).manifest)
    code, report = bench(capsys, str(off), "--engine", "onnxruntime")
    assert code == 1
    engine = report["engines"]["onnxruntime"]
    assert "stages" not in engine and "of the reference, got an error of" in engine["reason"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "required: BUNDLE"),
        ((SHIPPED, "--model", "pi0"), "expected BUNDLE or --model"),
        (("--model", "pi0"), "--model: expected --random-weights, got none"),
        (("--model", "pi0", "--random-weights", "--precision", "fp4"), "--precision"),
        (
            ("--model", "pi0", "--random-weights", "--precision", "fp8"),
            "expected any but fp8 with --model",
        ),
        ((SHIPPED, "--precision", "bf16"), "--precision: expected --model, got a bundle"),
        ((SHIPPED, "--size", "full"), "--size: expected --model, got a bundle"),
        ((SHIPPED, "--out", "/nowhere/figures.json"), "/nowhere: expected an existing folder"),
        ((SHIPPED, "--threads", "100000"), "expected at most"),
    ],
)
def test_contradicting_options_are_usage_errors(
    arguments: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["bench", *arguments])
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert expected in capsys.readouterr().err


@given(before=st.lists(TIMES), since=st.lists(TIMES, min_size=1, max_size=40))
def test_percentiles_between_two_readings_match_numpy_within_a_bin(
    before: list[float], since: list[float]
) -> None:
    found = histogram_between(histogram_of(before), histogram_of([*before, *since]))
    assert found["count"] == len(since)
    for share in (50, 95, 99):
        below, above = (
            float(np.percentile(since, share, method=method))
            for method in ("inverted_cdf", "higher")
        )
        assert below / 1.13 <= found[f"p{share}_ms"] <= above * 1.13
    assert max(since) / 1.13 <= found["max_ms"] <= max(since) * 1.13


@pytest.mark.parametrize("report", ["no JSON", '{"costs": 5}', "[]"])
def test_a_foreign_report_is_refused_before_anything_is_timed(
    report: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(SHIPPED, tmp_path / "b"))
    manifest = Bundle.open(bundle).manifest
    (bundle / "report.json").write_text(report)
    write_manifest(bundle, manifest)
    assert main(["bench", str(bundle)]) == 1
    error = capsys.readouterr().err
    assert "report.json: expected the report of flux-export" in error and error.count("\n") == 1


def test_a_bundle_without_a_report_is_timed_without_a_floor(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(SHIPPED, tmp_path / "b"))
    manifest = Bundle.open(bundle).manifest
    (bundle / "report.json").unlink()
    write_manifest(bundle, manifest)
    code, report = bench(capsys, str(bundle), "--engine", "onnxruntime")
    assert code == 0 and report["costs"] is None
    assert "floor_ms" not in report["engines"]["onnxruntime"]


def test_the_floor_is_the_slower_of_arithmetic_and_memory() -> None:
    costs = {"prefix": {"flops": 4e9, "bytes": 1e6}, "step": {"flops": 1e6, "bytes": 3e9}}
    speeds = Speeds(flops_per_s=1e12, bytes_per_s=1e11)
    assert floor_ms(costs, speeds, 10) == pytest.approx(
        {"prefix": 4.0, "step": 30.0, "total": 304.0}
    )
    card = Speeds(flops_per_s=None, bytes_per_s=1e11)
    assert floor_ms(costs, card, 1)["prefix"] == pytest.approx(0.01)


def test_a_processor_multiplies_and_copies_at_a_credible_speed() -> None:
    speeds = processor_speeds(1)
    assert speeds.flops_per_s is not None
    assert 1e9 < speeds.flops_per_s < 1e13 and 1e8 < speeds.bytes_per_s < 1e12


class Driver:
    """libcuda of an H100 with HBM3, with its real attributes; or one that fails."""

    def __init__(self, code: int = 0):
        self.code = code

    def cuInit(self, flags: int) -> int:
        return self.code

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: int) -> int:
        answers = {36: 2_619_000, 37: 5120}
        ctypes.cast(value, ctypes.POINTER(ctypes.c_int))[0] = answers[attribute]
        return 0


def test_a_cards_memory_bandwidth_matches_its_data_sheet() -> None:
    assert nvidia.memory_bytes_per_s(lambda _: Driver()) == pytest.approx(3.35e12, rel=0.01)


def test_a_driver_that_fails_is_named_with_its_code() -> None:
    with pytest.raises(MissingDependencyError, match="cuInit: expected 0, got 100"):
        nvidia.memory_bytes_per_s(lambda _: Driver(100))


@pytest.fixture(scope="module")
def random_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with random weights."""
    pytest.importorskip("onnxscript", reason="needs the extra flux-runtime[export]")
    from flux_runtime.export.options import ExportOptions
    from flux_runtime.export.random_weights import random_policy
    from flux_runtime.export.writer import export_bundle

    out = tmp_path_factory.mktemp("random") / "pi05_small"
    export_bundle(random_policy("pi05", "small"), out, lambda *_: None, ExportOptions())
    return out


def test_random_weights_are_timed_beside_their_floor(
    random_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, report = bench(capsys, str(random_bundle))
    assert code == 0
    (engine,) = report["engines"].values()
    assert set(engine["floor_ms"]) == {"prefix", "step", "total"}
    assert set(engine["stages"]) == {*STAGES, "total"}
    assert main(["bench", str(random_bundle), "--repeat", "1", "--warm-up", "1"]) == 0
    printed = capsys.readouterr().out
    assert "GFLOP/s" in printed and "pi05_small" in printed and "%" in printed


def test_the_operations_are_those_that_pytorch_counts(random_bundle: Path) -> None:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from flux_core.models import sample_actions
    from flux_runtime.export.random_weights import random_policy

    model = random_policy("pi05", "small").model
    model.tabulate(model.config.num_inference_steps, 1000)
    golden = {
        name: torch.from_numpy(a) for name, a in load_file(random_bundle / GOLDEN_NAME).items()
    }
    images = golden["input.images"].movedim(-1, 2).float()
    names = ("image_masks", "lang_tokens", "lang_masks")
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as prefix:
            cache = model.prefix(images, *(golden[f"input.{name}"] for name in names))
        with FlopCounterMode(display=False) as loop:
            sample_actions(model, None, cache, golden["input.noise"])
    costs = json.loads((random_bundle / "report.json").read_text())["costs"]
    assert costs["prefix"]["flops"] == pytest.approx(prefix.get_total_flops(), rel=0.01)
    steps = loop.get_total_flops() / model.config.num_inference_steps
    assert costs["step"]["flops"] == pytest.approx(steps, rel=0.01)


def test_the_bytes_are_those_of_the_weights_that_are_multiplied(random_bundle: Path) -> None:
    costs = json.loads((random_bundle / "report.json").read_text())["costs"]
    weights = load_file(random_bundle / "model.safetensors")
    parts = ("vision_backbone.", "projector.", "llm_backbone.layers.")
    prefix = sum(value.nbytes for name, value in weights.items() if name.startswith(parts))
    layers = {name.split(".")[2] for name in weights if name.startswith(parts[2])}
    language = sum(value.nbytes for name, value in weights.items() if name.startswith(parts[2]))
    # The prefix computes only keys and values in its last layer.
    assert prefix - language / len(layers) < costs["prefix"]["bytes"] < prefix
    expert = sum(value.nbytes for name, value in weights.items() if name.startswith("llm_expert."))
    assert 0.3 * expert < costs["step"]["bytes"] < 1.5 * expert
