"""The engine `tensorrt`: plans with TensorRT-RTX, which needs no card; capture with fakes."""

from __future__ import annotations

import copy
import ctypes
import gc
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flux_core.bundle.bundle import Bundle
from flux_core.errors import BundleError, MissingDependencyError
from flux_runtime.engines import nvidia
from flux_runtime.engines import status as engine_status
from flux_runtime.engines.cuda_driver import CudaDriver
from flux_runtime.engines.opening import open_flow_policy
from flux_runtime.engines.tensorrt import CapturedInference
from flux_runtime.engines.tensorrt_plans import build_plan, open_plans

CARD = nvidia.Card(name="NVIDIA H100 80GB HBM3", driver="580.65.06")
STEPS = 4  # of the toy bundle


class FakeDriver:
    """libcuda that allocates host memory, records the names of calls, and can refuse some."""

    def __init__(self, refuse: dict[str, int] | None = None) -> None:
        self.calls: list[str] = []
        self.refuse = refuse or {}
        self.memory: dict[int, Any] = {}
        self.captured: list[str] | None = None

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name in self.refuse:
                return self.refuse[name]
            getattr(type(self), f"do_{name}", lambda *_: None)(self, *arguments)
            return 0

        return call

    def _allocate(self, out: Any, num_bytes: Any) -> None:
        buffer = (ctypes.c_ubyte * num_bytes.value)()
        address = ctypes.addressof(buffer)
        self.memory[address] = buffer
        out._obj.value = address

    def do_cuMemAlloc_v2(self, out: Any, num_bytes: Any) -> None:
        self._allocate(out, num_bytes)

    def do_cuMemHostAlloc(self, out: Any, num_bytes: Any, _: Any) -> None:
        self._allocate(out, num_bytes)

    def do_cuMemFree_v2(self, address: Any) -> None:
        del self.memory[address.value]

    def do_cuMemFreeHost(self, address: Any) -> None:
        del self.memory[address.value]

    def do_cuDevicePrimaryCtxRetain(self, out: Any, _: Any) -> None:
        out._obj.value = 0xC0

    def do_cuStreamCreate(self, out: Any, _: Any) -> None:
        out._obj.value = 0x57

    def do_cuGraphInstantiateWithFlags(self, out: Any, *_: Any) -> None:
        out._obj.value = 0x69

    def do_cuGetErrorName(self, code: Any, out: Any) -> None:
        out._obj.value = b"CUDA_ERROR_OUT_OF_MEMORY" if code.value == 2 else b"CUDA_ERROR"

    def do_cuMemcpyHtoDAsync_v2(self, device: Any, host: Any, size: Any, _: Any) -> None:
        ctypes.memmove(device.value, host.value, size.value)

    def do_cuMemcpyDtoHAsync_v2(self, host: Any, device: Any, size: Any, _: Any) -> None:
        ctypes.memmove(host.value, device.value, size.value)


class FakeContext:
    """Runs a graph of the bundle in ONNX Runtime, on the memory at the given addresses."""

    def __init__(self, driver: FakeDriver, bundle: Bundle, name: str) -> None:
        import onnxruntime

        self.driver, self.name = driver, name
        self.signature = bundle.manifest.graphs[name]
        self.session = onnxruntime.InferenceSession(str(bundle.path(self.signature.file)))
        self.addresses: dict[str, int] = {}
        self.seen: list[dict[str, int]] = []

    def _array(self, tensor: Any) -> np.ndarray:
        dtype = np.dtype(tensor.dtype)
        size = int(np.prod(tensor.shape)) * dtype.itemsize
        raw = (ctypes.c_ubyte * size).from_address(self.addresses[tensor.name])
        return np.frombuffer(raw, dtype).reshape(tensor.shape)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address in self.driver.memory

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 0x57
        self.driver.calls.append(f"execute {self.name}")
        self.seen.append(dict(self.addresses))
        inputs = {tensor.name: self._array(tensor) for tensor in self.signature.inputs}
        wanted = [tensor.name for tensor in self.signature.outputs]
        for tensor, value in zip(
            self.signature.outputs, self.session.run(wanted, inputs), strict=True
        ):
            self._array(tensor)[...] = value
        return True


@pytest.fixture
def captured(toy_bundle: Path) -> SimpleNamespace:
    """The toy bundle, captured."""
    bundle, library, resources = Bundle.open(toy_bundle), FakeDriver(), ExitStack()
    contexts = {name.encode(): FakeContext(library, bundle, name) for name in ("prefix", "denoise")}
    trt = fake_tensorrt(contexts)
    driver = CudaDriver(resources, load=lambda _: library)
    plans = {"prefix": b"prefix", "denoise": b"denoise"}
    inference = CapturedInference(bundle, plans, trt, driver, resources)
    return SimpleNamespace(
        bundle=bundle, library=library, contexts=contexts, inference=inference, trt=trt
    )


def fake_tensorrt(contexts: dict[bytes, Any]) -> Any:
    class Logger:
        ERROR = 1

        def __init__(self, level: int) -> None: ...

    def deserialize(plan: bytes) -> Any:
        return SimpleNamespace(create_execution_context=lambda: another(contexts.get(plan)))

    def another(context: Any) -> Any:
        made = copy.copy(context)
        if made is not None:
            made.addresses = {}  # the runs of all contexts, in order, with their addresses
        return made

    runtime = SimpleNamespace(deserialize_cuda_engine=deserialize)
    return SimpleNamespace(Logger=Logger, Runtime=lambda logger: runtime)


def test_the_capture_holds_copies_prefix_steps_and_the_copy_out(captured: Any) -> None:
    calls = captured.library.calls
    begin, end = calls.index("cuStreamBeginCapture_v2"), calls.index("cuStreamEndCapture")
    inputs = len(captured.inference.arguments()["inputs"])
    expected = [
        *["cuMemcpyHtoDAsync_v2"] * (inputs + 2),  # including the noise and the first times
        "execute prefix",
        *["execute denoise"] * captured.bundle.manifest.num_inference_steps,
        "cuMemcpyDtoHAsync_v2",
    ]
    assert calls[begin + 1 : end] == expected
    # Run once before, because TensorRT's first run does a setup that cannot be captured.
    first = calls.index("cuMemcpyHtoDAsync_v2")
    assert calls[first:begin] == [*expected, "cuStreamSynchronize"]


def test_the_captured_work_reproduces_the_golden(captured: Any) -> None:
    golden, host = captured.bundle.golden(), captured.inference.arguments()
    for name, (dtype, shape, address) in host["inputs"].items():
        value = np.ascontiguousarray(golden[f"input.{name}"])
        assert (value.dtype.name, value.shape) == (dtype, shape)
        ctypes.memmove(address, value.ctypes.data, value.nbytes)
    noise = golden["input.noise"]
    ctypes.memmove(host["noise"], noise.ctypes.data, noise.nbytes)
    captured.inference._enqueue()
    actions = (ctypes.c_float * noise.size).from_address(host["actions"])
    expected = golden["output.actions"].ravel()
    np.testing.assert_allclose(np.array(actions), expected, atol=1e-5)
    assert host["action_shape"] == noise.shape[1:]


def test_steps_alternate_and_read_what_the_prefix_wrote(captured: Any) -> None:
    prefix, denoise = (captured.contexts[name].seen for name in (b"prefix", b"denoise"))
    outputs = {tensor.name for tensor in captured.bundle.manifest.graphs["prefix"].outputs}
    taken = outputs & denoise[0].keys()
    assert taken
    for step, seen in enumerate(denoise):
        assert all(seen[name] == prefix[0][name] for name in taken)
        if (step + 1) % captured.bundle.manifest.num_inference_steps:
            following = denoise[step + 1]
            assert (seen["x_next"], seen["t_next"]) == (following["x_t"], following["t"])


def test_everything_is_released_with_the_last_reference(captured: Any) -> None:
    library = captured.library
    assert library.memory
    captured.inference = None
    gc.collect()
    assert not library.memory
    last = library.calls[-3:]
    assert last == ["cuMemFreeHost", "cuStreamDestroy_v2", "cuDevicePrimaryCtxRelease_v2"]
    assert library.calls.index("cuGraphExecDestroy") < library.calls.index("cuMemFree_v2")


@pytest.mark.parametrize("function", ["cuInit", "cuMemAlloc_v2", "cuStreamEndCapture"])
def test_an_error_names_call_and_code_and_leaves_nothing(function: str, toy_bundle: Path) -> None:
    bundle, library, resources = Bundle.open(toy_bundle), FakeDriver({function: 2}), ExitStack()
    contexts = {name.encode(): FakeContext(library, bundle, name) for name in ("prefix", "denoise")}
    plans = {"prefix": b"prefix", "denoise": b"denoise"}
    expected = rf"{function}: expected success, got CUDA error 2 \(CUDA_ERROR_OUT_OF_MEMORY\)"
    with pytest.raises(MissingDependencyError, match=expected), resources:
        driver = CudaDriver(resources, load=lambda _: library)
        CapturedInference(bundle, plans, fake_tensorrt(contexts), driver, resources)
    assert not library.memory


def test_a_plan_that_cannot_be_opened_says_what_to_remove(toy_bundle: Path) -> None:
    resources, library = ExitStack(), FakeDriver()
    plans = {"prefix": b"broken", "denoise": b"broken"}
    with pytest.raises(BundleError, match=r"Remove .*\.engines"), resources:
        driver = CudaDriver(resources, load=lambda _: library)
        CapturedInference(Bundle.open(toy_bundle), plans, fake_tensorrt({}), driver, resources)
    assert not library.memory


def test_a_missing_driver_is_a_one_line_error(core: Any) -> None:
    with (
        pytest.raises(MissingDependencyError, match="Install NVIDIA's driver"),
        ExitStack() as all_,
    ):
        CudaDriver(all_, library="/nowhere/libcuda.so.1")
    with pytest.raises(core.EngineUnavailable, match="cannot be loaded"):
        core.CapturedPolicy(
            driver="/nowhere/libcuda.so.1",
            context=1,
            stream=1,
            graph=1,
            inputs={},
            noise=1,
            actions=1,
            action_shape=(2, 3),
            owner=None,
        )


@pytest.mark.skipif(nvidia.has_card(), reason="there is a card here")
def test_without_a_card_the_engine_is_refused_without_a_fallback(toy_bundle: Path) -> None:
    assert not engine_status.engine_status("tensorrt").ok
    with pytest.raises(MissingDependencyError, match="engine tensorrt: no NVIDIA card"):
        open_flow_policy(Bundle.open(toy_bundle), engine="tensorrt")


class TestPlans:
    """Real graphs in a real builder."""

    @pytest.fixture
    def trt(self) -> Any:
        return pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")

    @pytest.fixture
    def shipped(self) -> Bundle:
        from flux_runtime.control.session import shipped_policy

        return Bundle.open(shipped_policy("aloha-sim"))

    @staticmethod
    def for_an_rtx_4090(trt: Any) -> Callable[[Any], None]:
        def setup(config: Any) -> None:
            config.num_compute_capabilities = 1
            config.set_compute_capability(trt.ComputeCapability.SM89, 0)

        return setup

    def test_both_graphs_of_the_shipped_policy_are_built(self, trt: Any, shipped: Bundle) -> None:
        for signature in shipped.manifest.graphs.values():
            graph = shipped.path(signature.file)
            plan = build_plan(graph, signature, trt, self.for_an_rtx_4090(trt))
            assert len(plan) > 10_000

    def test_a_signature_that_differs_from_the_manifest_is_refused(
        self, trt: Any, shipped: Bundle
    ) -> None:
        signature = shipped.manifest.graphs["denoise"]
        wrong = replace(signature.inputs[0], shape=(7,))
        signature = replace(signature, inputs=(wrong, *signature.inputs[1:]))
        graph = shipped.path(signature.file)
        with pytest.raises(BundleError, match=rf"{wrong.name}: expected .*\(7,\)"):
            build_plan(graph, signature, trt)

    def test_what_the_parser_cannot_read_is_refused_in_one_line(
        self, trt: Any, tmp_path: Path, shipped: Bundle
    ) -> None:
        (tmp_path / "prefix.onnx").write_bytes(b"nonsense")
        with pytest.raises(BundleError, match="cannot be read by TensorRT") as error:
            build_plan(tmp_path / "prefix.onnx", shipped.manifest.graphs["prefix"], trt)
        assert "\n" not in str(error.value)


def test_plans_are_built_once_and_again_when_the_driver_changes(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []

    def build(graph: Path, *_: Any) -> bytes:
        built.append(graph.name)
        return graph.name.encode()

    monkeypatch.setattr("flux_runtime.engines.tensorrt_plans.build_plan", build)
    bundle, trt = Bundle.open(toy_bundle), SimpleNamespace(__version__="10.16.1")
    for _ in range(2):
        plans = open_plans(bundle, trt, CARD)
        assert plans == {"prefix": b"prefix.onnx", "denoise": b"denoise.onnx"}
    assert built == ["prefix.onnx", "denoise.onnx"]
    open_plans(bundle, trt, replace(CARD, driver="590.1"))
    open_plans(bundle, SimpleNamespace(__version__="10.17.0"), CARD)
    assert len(built) == 6
    assert Bundle.open(toy_bundle), "the bundle itself must not change"
