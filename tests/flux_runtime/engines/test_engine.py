"""Engines: which one is chosen, what others lack, and that all of them give the same actions."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_core.bundle.bundle import Bundle
from flux_core.errors import BundleError, MissingDependencyError
from flux_runtime.cli import main
from flux_runtime.engines import nvidia, opening, openvino_library
from flux_runtime.engines import status as engine_status
from flux_runtime.engines.cache import content_digest, engine_cache_key, make_engine_cache
from flux_runtime.engines.golden_replay import replay_golden
from flux_runtime.engines.graph_inputs import user_inputs
from flux_runtime.engines.names import CARD_ENGINES, ENGINES
from flux_runtime.engines.opening import (
    ENGINE_TOLERANCE,
    choose_engine,
    engine_tolerance,
    open_flow_policy,
    tensorrt_options,
)
from flux_runtime.run.command import shipped_policy

from ..conftest import Exported

CARD = nvidia.Card(name="NVIDIA H100 80GB HBM3", driver="580.65.06")
KEY = {
    "gpu": CARD.name,
    "driver": CARD.driver,
    "tensorrt": "10.16.1",
    "precision": "bf16",
    "content": "0123456789abcdef",
}


@pytest.fixture(scope="module")
def openvino() -> None:
    """OpenVINO, or a skip that names what is missing."""
    pytest.importorskip("flux_runtime._core", reason="the C++ core was not built")
    status = engine_status.engine_status("openvino")
    if not status.ok:
        pytest.skip(f"{status.found}. {status.fix}")


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return Bundle.open(shipped_policy("aloha-sim"))


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Fakes the files of an NVIDIA card and of an ONNX Runtime with both providers."""
    folder = tmp_path / "capi"
    folder.mkdir()
    for name in ("libonnxruntime.so.1.31.1", "libonnxruntime_providers_cuda.so"):
        (folder / name).touch()
    monkeypatch.setattr(nvidia, "has_card", lambda: True)
    monkeypatch.setattr(nvidia, "read_card", lambda: CARD)
    monkeypatch.setattr(nvidia, "tensorrt_version", lambda: "10.16.1")
    library = folder / "libonnxruntime.so.1.31.1"
    monkeypatch.setattr(engine_status.onnxruntime_library, "find_library", lambda: library)
    return folder


def golden_inputs(bundle: Bundle) -> tuple[dict[str, np.ndarray], np.ndarray]:
    golden = bundle.golden()
    names = user_inputs(bundle.manifest)
    return {name: golden[f"input.{name}"] for name in names}, golden["input.noise"]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Runs a command that must fail with one line on stderr and nothing on stdout."""
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


# --- which engine -------------------------------------------------------------------------------


def test_auto_chooses_the_cpu_without_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "has_card", lambda: False)
    choice = choose_engine()
    assert (choice.name, choice.reason) == ("onnxruntime", "auto: no NVIDIA card with a driver")


def test_auto_chooses_the_card_if_onnxruntime_can_use_it(card: Path) -> None:
    assert choose_engine().name == "onnxruntime-cuda"
    (card / "libonnxruntime_providers_cuda.so").unlink()
    choice = choose_engine("auto")
    assert choice.name == "onnxruntime"
    assert "no libonnxruntime_providers_cuda.so" in choice.reason


def test_auto_chooses_an_engine_that_can_run_half_precision_and_float8(
    card: Path, monkeypatch: pytest.MonkeyPatch, openvino: None
) -> None:
    assert choose_engine("auto", "bf16").name == "onnxruntime-cuda"
    # ONNX Runtime cannot convert bfloat16 to float8, not even on the card.
    assert choose_engine("auto", "fp8").name == "openvino"
    find = importlib.util.find_spec
    package = SimpleNamespace(origin="tensorrt/__init__.py")
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: package if name == "tensorrt" else find(name)
    )
    assert choose_engine("auto", "fp8").name == "tensorrt"
    monkeypatch.setattr(nvidia, "has_card", lambda: False)
    for precision in ("bf16", "fp8"):
        choice = choose_engine("auto", precision)
        assert choice.name == "openvino" and choice.reason.startswith(f"auto: {precision}, and ")


def test_a_requested_engine_is_used_or_refused(card: Path) -> None:
    assert choose_engine("onnxruntime-cuda").reason == "asked for"
    with pytest.raises(MissingDependencyError, match=r"no libonnxruntime_providers_tensorrt\.so"):
        choose_engine("onnxruntime-tensorrt")
    (card / "libonnxruntime_providers_tensorrt.so").touch()
    assert choose_engine("onnxruntime-tensorrt").name == "onnxruntime-tensorrt"
    with pytest.raises(
        MissingDependencyError, match="engine: expected one of auto, onnx.*got 'tpu'"
    ):
        choose_engine("tpu")


def test_tensorrt_without_its_library_names_the_extra(
    card: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> str:
        raise MissingDependencyError("libnvinfer.so.10: cannot be loaded (no such file). Get it.")

    monkeypatch.setattr(nvidia, "tensorrt_version", missing)
    (card / "libonnxruntime_providers_tensorrt.so").touch()
    with pytest.raises(MissingDependencyError, match=r"no libnvinfer.*flux-runtime\[tensorrt\]"):
        choose_engine("onnxruntime-tensorrt")


@pytest.mark.parametrize("engine", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_missing_card_is_a_one_line_error(
    core: Any,
    toy: Any,
    toy_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    engine: str,
    command: str,
) -> None:
    monkeypatch.setattr(nvidia, "has_card", lambda: False)
    run = ("run", "--robot", "toy", "--bundle", str(toy_bundle))
    arguments = run if command == "run" else ("check", str(toy_bundle))
    line = refused(capsys, *arguments, "--engine", engine)
    assert f"engine {engine}: no NVIDIA card with a driver. Install" in line
    assert toy.calls == []


def test_a_provider_that_does_not_load_is_a_one_line_error_without_a_fallback(
    core: Any, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        engine_status,
        "engine_status",
        lambda name: engine_status.EngineStatus(name=name, found="all files"),
    )
    if nvidia.has_card():
        pytest.skip("this machine has a card")
    line = refused(capsys, "check", str(toy_bundle), "--engine", "onnxruntime-cuda")
    assert "engine onnxruntime-cuda: cannot be used on this machine (CUDA provider: " in line
    assert "flux-runtime doctor" in line


def test_an_unknown_engine_is_a_usage_error(toy_bundle: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["check", str(toy_bundle), "--engine", "tpu"])
    assert caught.value.code == 2


def test_the_doctor_lists_every_engine_and_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(nvidia, "has_card", lambda: False)
    main(["doctor", "--json"])
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert {f"engine {name}" for name in ENGINES} <= set(checks)
    cuda = checks["engine onnxruntime-cuda"]
    assert (cuda["ok"], cuda["found"]) == (False, "no NVIDIA card with a driver")
    assert cuda["fix"] and not cuda["required"]


def test_a_missing_openvino_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"engine openvino: openvino: not installed"):
        choose_engine("openvino")
    with pytest.raises(MissingDependencyError, match=r"pip install 'flux-runtime\[openvino\]'"):
        openvino_library.find_library()


# --- the same actions ---------------------------------------------------------------------------


def test_openvino_reproduces_the_shipped_golden(openvino: None, shipped: Bundle) -> None:
    result = replay_golden(shipped, open_flow_policy(shipped, engine="openvino"))
    assert result.max_abs_error < 1e-5


@pytest.mark.parametrize("which", ["shipped", "toy"])
def test_openvino_and_onnxruntime_agree(
    openvino: None, shipped: Bundle, toy_bundle: Path, which: str
) -> None:
    bundle = shipped if which == "shipped" else Bundle.open(toy_bundle)
    inputs, noise = golden_inputs(bundle)
    ours = open_flow_policy(bundle, engine="onnxruntime")
    theirs = open_flow_policy(bundle, engine="openvino", num_threads=2)
    assert ours.inputs == theirs.inputs
    generator = np.random.default_rng(0)
    for _ in range(5):
        image = inputs["images"]
        inputs["images"] = generator.integers(0, 256, image.shape, np.uint8)
        noise = generator.standard_normal(noise.shape, np.float32)
        difference = ours.infer(inputs, noise) - theirs.infer(inputs, noise)
        assert np.abs(difference).max() < 1e-4


def test_openvino_in_bfloat16_is_refused_on_a_cpu_without_it(
    openvino: None, shipped: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO itself falls back to float32 without a message."""
    if openvino_library.has_bfloat16(openvino_library.find_library()):
        pytest.skip("this CPU has bfloat16 instructions")
    with pytest.raises(MissingDependencyError, match="no bfloat16 instructions"):
        choose_engine("openvino-bf16")
    monkeypatch.setattr(openvino_library, "has_bfloat16", lambda library: True)
    with pytest.raises(MissingDependencyError, match="HINT: expected bf16, got f32"):
        open_flow_policy(shipped, engine="openvino-bf16")


def test_openvino_in_bfloat16_is_within_its_tolerance(openvino: None, shipped: Bundle) -> None:
    if not openvino_library.has_bfloat16(openvino_library.find_library()):
        pytest.skip("this CPU has no bfloat16 instructions (AVX-512 or newer)")
    try:
        policy = open_flow_policy(shipped, engine="openvino-bf16")
    except MissingDependencyError as error:
        assert "crashes on this CPU" in str(error)
        pytest.skip(str(error))
    tolerance = engine_tolerance(shipped.manifest, "openvino-bf16")
    result = replay_golden(shipped, policy, tolerance=tolerance)
    assert result.ok
    assert result.max_abs_error > 1e-4  # it did compute in bfloat16


def test_openvino_in_bfloat16_without_amx_is_within_its_tolerance(
    openvino: None, shipped: Bundle
) -> None:
    """OpenVINO's other kernels, in a separate process, because it reads the variable only once."""
    if not openvino_library.has_bfloat16(openvino_library.find_library()):
        pytest.skip("this CPU has no bfloat16 instructions (AVX-512 or newer)")
    command = str(Path(sys.executable).with_name("flux-runtime")), "check", str(shipped.directory)
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}
    done = subprocess.run(
        [*command, "--json", "--engine", "openvino-bf16"],
        capture_output=True,
        text=True,
        env=environment,
    )
    result = json.loads(done.stdout)
    assert result["ok"] and result["max_abs_error"] > 1e-4


def test_a_library_that_crashes_is_a_one_line_error(
    openvino: None,
    shipped: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    crashing = tmp_path / "python"
    crashing.write_text("#!/bin/sh\nkill -FPE $$\n")
    crashing.chmod(0o755)
    monkeypatch.setattr(openvino_library, "has_bfloat16", lambda library: True)
    monkeypatch.setattr("flux_runtime.engines.trial_run.sys.executable", str(crashing))
    line = refused(capsys, "check", str(shipped.directory), "--engine", "openvino-bf16")
    assert "engine openvino-bf16: its library crashes on this CPU (SIGFPE" in line


def test_an_engines_tolerance_is_at_least_its_bundles(shipped: Bundle) -> None:
    assert engine_tolerance(shipped.manifest, "openvino") == 1e-4
    assert engine_tolerance(shipped.manifest, "openvino-bf16") == ENGINE_TOLERANCE["openvino-bf16"]
    coarse = replace(shipped.manifest, tolerance=0.05)
    assert engine_tolerance(coarse, "openvino-bf16") == 0.05


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8"])
def test_every_coarser_precision_of_a_bundle_is_reproduced(
    openvino: None, exported: Exported, precision: str
) -> None:
    bundle, _ = exported("pi05", precision=precision)
    assert replay_golden(bundle, open_flow_policy(bundle, engine="openvino")).ok
    if precision == "bf16":
        with pytest.raises(BundleError, match=r"onnxruntime: .*NOT_IMPLEMENTED|Could not find an"):
            open_flow_policy(bundle, engine="onnxruntime")
    else:
        assert replay_golden(bundle, open_flow_policy(bundle, engine="onnxruntime")).ok


def test_check_and_run_report_their_engine(
    openvino: None, toy: Any, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(toy_bundle), "--engine", "openvino", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["engine"], report["engine_reason"]) == ("openvino", "asked for")
    assert main(["check", str(toy_bundle)]) == 0
    assert "engine         onnxruntime (auto: no NVIDIA card" in capsys.readouterr().out
    run = ["run", "--robot", "toy", "--bundle", str(toy_bundle), "--episodes", "1", "--json"]
    assert main([*run, "--max-steps", "8", "--engine", "openvino"]) == 0
    assert json.loads(capsys.readouterr().out)["engine"] == "openvino"


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_run_refuses_an_inaccurate_engine_and_reports_its_error(
    openvino: None,
    toy: Any,
    fakes: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    engine: str,
) -> None:
    bundle = fakes.write_toy_bundle(tmp_path / "off", golden_error=0.01)
    line = refused(capsys, "run", "--robot", "toy", "--bundle", str(bundle), "--engine", engine)
    assert f"{engine}: expected actions within 0.0001 of the reference, got an error of" in line
    assert "0.01 (cosine 0.99" in line
    assert toy.calls == []


def test_an_operator_that_openvino_does_not_know_is_a_one_line_error(
    openvino: None, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from flux_core.bundle.bundle import write_manifest

    manifest = Bundle.open(toy_bundle).manifest
    graph = toy_bundle / "prefix.onnx"
    graph.write_bytes(graph.read_bytes().replace(b"Neg", b"Nag"))
    write_manifest(toy_bundle, manifest)
    line = refused(capsys, "check", str(toy_bundle), "--engine", "openvino")
    assert "the engine rejects the graphs (openvino: " in line


def test_the_loop_costs_next_to_nothing_beside_its_engine_calls(core: Any, shipped: Bundle) -> None:
    policy = open_flow_policy(shipped, engine="onnxruntime")
    inputs, noise = golden_inputs(shipped)
    for _ in range(20):
        policy.infer(inputs, noise)
    histograms = policy.histograms()
    assert histograms["step"]["count"] == 20 * shipped.manifest.num_inference_steps
    ratio = histograms["denoise"]["sum_ms"] / histograms["step"]["sum_ms"]
    print(f"ten steps take {ratio:.5f} times their engine calls")
    assert 1.0 <= ratio < 1.02


# --- TensorRT's engines -------------------------------------------------------------------------


@given(name=st.sampled_from(sorted(KEY)), value=st.text(min_size=1, max_size=30))
def test_different_keys_have_different_folders(name: str, value: str) -> None:
    key = engine_cache_key(**KEY)
    assert (engine_cache_key(**KEY | {name: value}) == key) == (KEY[name] == value)


@given(st.fixed_dictionaries(dict.fromkeys(KEY, st.text(max_size=30))))
def test_a_key_is_a_valid_folder_name(values: dict[str, str]) -> None:
    key = engine_cache_key(**values)
    assert key == engine_cache_key(**values)
    assert key == Path(key).name and key.isascii() and not set(key) & set(" /\\:\0")


def test_a_key_is_readable() -> None:
    assert engine_cache_key(**KEY).startswith(
        "nvidia-h100-80gb-hbm3_580.65.06_tensorrt-10.16.1_bf16_0123456789ab_"
    )


def test_a_graph_too_large_for_one_protobuf_message_is_refused_before_anything_is_loaded(
    card: Path, exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    (card / "libonnxruntime_providers_tensorrt.so").touch()
    bundle, _ = exported("pi0")
    weights = bundle.path("model.safetensors").stat().st_size
    monkeypatch.setattr(opening, "MAX_PROTOBUF_BYTES", weights // 2)
    with pytest.raises(BundleError) as refused_graph:
        open_flow_policy(bundle, engine="onnxruntime-tensorrt")
    message = str(refused_graph.value)
    assert "prefix.onnx: engine onnxruntime-tensorrt: expected at most" in message
    assert int(message.split("got ")[1].split(".")[0]) < weights + (1 << 20)
    assert message.endswith("Use the engine tensorrt or onnxruntime-cuda.")
    monkeypatch.setattr(opening, "MAX_PROTOBUF_BYTES", 2 * weights)
    opening._check_graph_bytes(bundle)


def test_engines_are_kept_beside_the_bundle_and_never_in_it(card: Path, toy_bundle: Path) -> None:
    bundle = Bundle.open(toy_bundle)
    options = tensorrt_options(bundle)
    folder = Path(options["trt_engine_cache_path"])
    assert folder.is_dir() and folder.parent == toy_bundle.with_name("bundle.engines")
    assert options["trt_timing_cache_path"] == str(folder)
    assert not {"trt_fp16_enable", "trt_bf16_enable"} & set(options)
    (folder / "engine").write_bytes(b"built")
    Bundle.open(toy_bundle)
    bf16 = replace(bundle, manifest=replace(bundle.manifest, precision="bf16"))
    other = tensorrt_options(bf16)
    assert "trt_fp16_enable" not in other and other["trt_bf16_enable"] == "1"
    assert other["trt_engine_cache_path"] != str(folder)


def test_other_weights_in_the_same_folder_change_the_digest(
    fakes: Any, toy_bundle: Path, tmp_path: Path
) -> None:
    from safetensors.numpy import save_file

    from flux_core.bundle.bundle import write_manifest

    before = content_digest(Bundle.open(toy_bundle))
    save_file({"weight": np.ones(2, np.float32)}, toy_bundle / "model.safetensors")
    write_manifest(toy_bundle, Bundle.open(toy_bundle, verify=False).manifest)
    assert content_digest(Bundle.open(toy_bundle)) != before


def test_a_folder_that_cannot_be_written_is_an_error(toy_bundle: Path) -> None:
    toy_bundle.with_name("bundle.engines").write_text("a file")
    with pytest.raises(BundleError, match=r"bundle\.engines.*cannot be created for TensorRT's"):
        make_engine_cache(Bundle.open(toy_bundle), "key")


# --- NVIDIA's libraries -------------------------------------------------------------------------


class CardsDriver:
    """libcuda of one card."""

    cuInit = staticmethod(lambda flags: 0)

    @staticmethod
    def cuDeviceGet(out: Any, ordinal: int) -> int:
        assert ordinal == 0
        out._obj.value = 5
        return 0

    @staticmethod
    def cuDeviceGetName(out: Any, size: Any, device: Any) -> int:
        assert device.value == 5 and len(CARD.name) < size.value
        out.value = CARD.name.encode()
        return 0

    @staticmethod
    def cuDriverGetVersion(out: Any) -> int:
        out._obj.value = 13010
        return 0


def test_a_card_is_read_from_its_driver(tmp_path: Path) -> None:
    load = lambda _: CardsDriver()  # noqa: E731
    unnamed = nvidia.read_card(load, tmp_path)
    assert unnamed == nvidia.Card(name=CARD.name, driver="CUDA 13.1")
    folder = tmp_path / "proc" / "driver" / "nvidia"
    folder.mkdir(parents=True)
    (folder / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n"
        "GCC version:  gcc version 13.3.0\n"
    )
    assert nvidia.read_card(load, tmp_path) == CARD


@pytest.mark.parametrize(
    ("init", "counting", "cards", "expected"),
    [(0, 0, 1, True), (0, 0, 0, False), (100, 0, 1, False), (0, 3, 1, False)],
)
def test_a_card_is_what_the_driver_counts(
    init: int, counting: int, cards: int, expected: bool
) -> None:
    """Wherever its device files are: WSL2 and Orin have no /dev/nvidia0."""

    class Driver:
        cuInit = staticmethod(lambda flags: init)

        @staticmethod
        def cuDeviceGetCount(out: Any) -> int:
            out._obj.value = cards
            return counting

    assert nvidia.has_card(lambda _: Driver()) is expected


def test_without_a_driver_there_is_no_card() -> None:
    def load(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    assert nvidia.has_card(load) is False


def test_a_real_driver_library_is_called_as_c_declares_it(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler is installed")
    source, library = tmp_path / "cuda.c", tmp_path / "libcuda.so.1"
    source.write_text(
        "int cuInit(unsigned flags) { return flags; }\n"
        "int cuDeviceGetCount(int *count) { *count = 2; return 0; }\n"
    )
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    assert nvidia.has_card(lambda name: ctypes.CDLL(str(tmp_path / name)))


def test_pip_libraries_are_loaded_before_those_that_need_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "nvidia" / "cu13" / "lib"
    folder.mkdir(parents=True)
    for name in ("libcublas.so.13", "libcublasLt.so.13", "libcudart.so.13", "libother.so.1"):
        (folder / name).touch()
    monkeypatch.setattr(nvidia, "pip_folders", lambda: [tmp_path, folder])
    loaded: list[str] = []
    nvidia.preload(nvidia.CUDA_LIBRARIES, lambda path: loaded.append(Path(path).name))
    assert loaded == ["libcudart.so.13", "libcublasLt.so.13", "libcublas.so.13"]

    def broken(path: str) -> None:
        raise OSError("wrong ELF class")

    with pytest.raises(MissingDependencyError, match=r"libcudart\.so\.13: cannot be loaded"):
        nvidia.preload(nvidia.CUDA_LIBRARIES, broken)


# --- on a card ----------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("engine", [name for name in CARD_ENGINES if name != "cuda"])
def test_a_card_reproduces_the_shipped_golden(
    core: Any, shipped: Bundle, tmp_path: Path, engine: Any
) -> None:
    import shutil

    status = engine_status.engine_status(engine)
    if not status.ok:
        pytest.skip(f"{status.found}. {status.fix}")
    bundle = Bundle.open(shutil.copytree(shipped.directory, tmp_path / "bundle"))
    policy = open_flow_policy(bundle, engine=engine)
    tolerance = engine_tolerance(bundle.manifest, engine)
    for _ in range(2):  # the second inference must read the second inputs
        assert replay_golden(bundle, policy, tolerance=tolerance).ok
    inputs, noise = golden_inputs(bundle)
    inputs["images"] = 255 - inputs["images"]
    expected = open_flow_policy(bundle, engine="onnxruntime").infer(inputs, -noise)
    np.testing.assert_allclose(policy.infer(inputs, -noise), expected, atol=tolerance)
