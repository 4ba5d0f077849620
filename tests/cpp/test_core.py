"""The binding `flux_runtime._core`: inference against numpy and Python's ONNX Runtime."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from flux_core.errors import MissingDependencyError
from flux_runtime import _core
from flux_runtime.engines import onnxruntime_library, openvino_library


def open_policy(
    directory: Path, steps: int = 4, library: str = "", engine: Any = "onnxruntime", **options: str
) -> Any:
    finder = openvino_library if engine == "openvino" else onnxruntime_library
    return _core.FlowPolicy(
        str(directory / "prefix.onnx"),
        str(directory / "denoise.onnx"),
        engine=engine,
        library=library or str(finder.find_library()),
        num_inference_steps=steps,
        options=options,
    )


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def engine(request: pytest.FixtureRequest) -> str:
    """The CPU engines; a skip says which one is not installed."""
    if request.param == "openvino":
        pytest.importorskip("openvino", reason="pip install 'flux-runtime[openvino]'")
    return request.param


@pytest.fixture(scope="module")
def policy(tiny_policy: Path) -> Any:
    return open_policy(tiny_policy)


def python_actions(
    directory: Path, tiny: Any, inputs: dict[str, Any], noise: Any, steps: int = 4
) -> np.ndarray:
    """The same loop over Python's sessions."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    providers = ["CPUExecutionProvider"]
    prefix = onnxruntime.InferenceSession(directory / "prefix.onnx", options, providers)
    denoise = onnxruntime.InferenceSession(directory / "denoise.onnx", options, providers)
    (key,) = prefix.run(["past_key_0"], {name: inputs[name] for name in tiny.PREFIX_INPUTS})
    x, t = noise[None], np.ones((1, tiny.HORIZON), np.float32)
    for _ in range(steps):
        feeds = {"x_t": x, "t": t, "past_key_0": key, "state": inputs["state"]}
        x, t = denoise.run(["x_next", "t_next"], feeds)
    return x[0]


def test_the_policy_names_its_inputs_and_its_shape(policy: Any, tiny: Any) -> None:
    state = {"state": tiny.DENOISE_INPUTS["state"]}
    assert policy.inputs == dict(tiny.PREFIX_INPUTS) | state
    assert policy.action_shape == (tiny.HORIZON, tiny.DIM)


@pytest.mark.parametrize("seed", range(3))
def test_actions_equal_pythons_onnxruntime_bit_for_bit(
    policy: Any, tiny_policy: Path, tiny: Any, seed: int
) -> None:
    inputs, noise = tiny.inputs(seed), tiny.noise(seed)
    actions = policy.infer(inputs, noise)
    assert actions.dtype == np.float32 and actions.shape == (tiny.HORIZON, tiny.DIM)
    np.testing.assert_array_equal(actions, python_actions(tiny_policy, tiny, inputs, noise))
    np.testing.assert_allclose(actions, tiny.numpy_actions(inputs, noise), atol=1e-6)


def test_every_engine_gives_numpys_actions(tiny_policy: Path, tiny: Any, engine: str) -> None:
    policy = open_policy(tiny_policy, engine=engine)
    assert policy.inputs == open_policy(tiny_policy).inputs
    for seed in range(3):
        inputs, noise = tiny.inputs(seed), tiny.noise(seed)
        actions = policy.infer(inputs, noise)
        np.testing.assert_allclose(actions, tiny.numpy_actions(inputs, noise), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_keys_of_half_precision_pass_between_the_graphs(
    tmp_path: Path, tiny: Any, engine: str, dtype: str
) -> None:
    policy = open_policy(tiny.write_policy(tmp_path, key_dtype=dtype), engine=engine)
    inputs, noise = tiny.inputs(), tiny.noise()
    expected = tiny.numpy_actions(inputs, noise)
    np.testing.assert_allclose(policy.infer(inputs, noise), expected, atol=2**-8)


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_any_number_of_steps_equals_pythons_loop_bit_for_bit(
    tiny_policy: Path, tiny: Any, steps: int
) -> None:
    policy = open_policy(tiny_policy, steps)
    for seed in range(2):
        inputs, noise = tiny.inputs(seed), tiny.noise(seed)
        expected = python_actions(tiny_policy, tiny, inputs, noise, steps)
        np.testing.assert_array_equal(policy.infer(inputs, noise), expected)


def test_noise_and_inputs_are_never_written(policy: Any, tiny: Any) -> None:
    inputs, noise = tiny.inputs(), tiny.noise()
    for array in (*inputs.values(), noise):
        array.flags.writeable = False
    before = noise.copy()
    first = policy.infer(inputs, noise)
    second = policy.infer(inputs, noise[None])
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(noise, before)
    assert not np.shares_memory(first, second)


def test_arrays_need_not_be_contiguous(policy: Any, tiny: Any) -> None:
    inputs, noise = tiny.inputs(), tiny.noise()
    strided = dict(inputs, images=np.repeat(inputs["images"], 2, axis=2)[:, :, ::2])
    fortran = np.asfortranarray(noise)
    np.testing.assert_array_equal(policy.infer(strided, fortran), policy.infer(inputs, noise))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((1, 2, 5), np.uint8)}, r"images: .*got uint8 \(1, 2, 5\)"),
        ({"images": np.zeros((1, 2, 4), np.float32)}, r"images: .*got float32 \(1, 2, 4\)"),
        ({"images": np.zeros((1, 2, 4), np.float16)}, r"images: .*uint8 \(1, 2, 4\), got float16"),
        ({"state": np.zeros((1, 3), ">f4")}, r"state: .*float32 \(1, 3\), got >f4"),
        ({"images": [[1, 2]]}, r"images: .*uint8 \(1, 2, 4\), got <class 'list'>"),
        ({"wrist": np.zeros(1, np.uint8)}, "wrist: expected one of the inputs images, mask"),
        ({"state": None}, r"state: expected float32 \(1, 3\), got <class 'NoneType'>"),
    ],
)  # fmt: skip
def test_a_wrong_input_is_named(policy: Any, tiny: Any, change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy.infer(tiny.inputs() | change, tiny.noise())


def test_a_missing_input_is_named(policy: Any, tiny: Any) -> None:
    inputs = tiny.inputs()
    del inputs["mask"]
    with pytest.raises(ValueError, match=r"mask: expected bool \(1, 3\), got no such input"):
        policy.infer(inputs, tiny.noise())


@pytest.mark.parametrize("shape", [(3, 5), (15,), (2, 5, 3)])
def test_noise_of_another_shape_is_refused(policy: Any, tiny: Any, shape: Any) -> None:
    with pytest.raises(
        ValueError, match=r"noise: expected float32 \(5, 3\) or float32 \(1, 5, 3\)"
    ):
        policy.infer(tiny.inputs(), np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match="got float64"):
        policy.infer(tiny.inputs(), np.zeros((5, 3)))


def test_every_stage_is_timed(tiny_policy: Path, tiny: Any) -> None:
    policy = open_policy(tiny_policy)
    for _ in range(3):
        policy.infer(tiny.inputs(), tiny.noise())
    histograms = policy.histograms()
    assert {name: entry["count"] for name, entry in histograms.items()} == {
        "copy_in": 3,
        "prefix": 3,
        "step": 3 * tiny.STEPS,
        "denoise": 3,
        "inference": 3,
    }
    for entry in histograms.values():
        assert 0 < entry["max_ms"] <= entry["sum_ms"] <= entry["count"] * entry["max_ms"]
    whole = histograms["inference"]
    assert 0 < whole["p50_ms"] <= whole["p95_ms"] <= whole["p99_ms"] <= whole["max_ms"]
    assert sum(whole["counts"]) == 3 and len(whole["edges_ms"]) == len(whole["counts"]) + 1
    assert histograms["denoise"]["max_ms"] <= whole["max_ms"]


def test_several_threads_may_share_a_policy(policy: Any, tiny: Any) -> None:
    expected = [policy.infer(tiny.inputs(seed), tiny.noise(seed)) for seed in range(4)]
    wrong: list[int] = []

    def infer(seed: int) -> None:
        for _ in range(50):
            if not np.array_equal(
                policy.infer(tiny.inputs(seed), tiny.noise(seed)), expected[seed]
            ):
                wrong.append(seed)

    threads = [threading.Thread(target=infer, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_missing_weights_are_an_error_when_the_graph_is_loaded(tmp_path: Path, tiny: Any) -> None:
    directory = tiny.write_policy(tmp_path)
    (directory / "model.bin").unlink()
    with pytest.raises(RuntimeError, match=r"prefix\.onnx|denoise\.onnx"):
        open_policy(directory)


@pytest.mark.parametrize("steps", [0, -3])
def test_a_step_count_below_one_is_refused(tiny_policy: Path, steps: int) -> None:
    with pytest.raises(ValueError, match=f"num_inference_steps: expected at least 1, got {steps}"):
        open_policy(tiny_policy, steps)


def test_graphs_of_different_shapes_are_refused(tmp_path: Path, tiny: Any) -> None:
    wider = dict(tiny.DENOISE_INPUTS, past_key_0=("float32", (5, 3)))
    directory = tiny.write_policy(tmp_path, denoise_inputs=wider)
    with pytest.raises(
        ValueError, match=r"past_key_0 .*expected float32 \(1, 3\).*got float32 \(5"
    ):
        open_policy(directory)


def test_a_symbolic_shape_is_refused(tmp_path: Path, tiny: Any) -> None:
    inputs = dict(tiny.PREFIX_INPUTS, images=("uint8", (1, "cameras", 4)))
    with pytest.raises(ValueError, match=r"images: expected a static shape .*\(1, -1, 4\)"):
        open_policy(tiny.write_policy(tmp_path, prefix_inputs=inputs))


def test_a_file_that_is_not_a_model_is_refused(tmp_path: Path, tiny: Any) -> None:
    directory = tiny.write_policy(tmp_path)
    (directory / "denoise.onnx").write_bytes(b"no model")
    with pytest.raises(RuntimeError, match=r"denoise\.onnx"):
        open_policy(directory)


def test_a_library_that_is_not_onnxruntime_is_refused(tiny_policy: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="cannot be loaded"):
        open_policy(tiny_policy, library=str(tmp_path / "libonnxruntime.so"))
    with pytest.raises(RuntimeError, match="OrtGetApiBase"):
        open_policy(tiny_policy, library=_core.__file__)


def test_a_library_that_is_not_openvino_is_refused(tiny_policy: Path, tmp_path: Path) -> None:
    with pytest.raises(_core.EngineUnavailable, match="cannot be loaded"):
        open_policy(tiny_policy, library=str(tmp_path / "libopenvino_c.so"), engine="openvino")
    with pytest.raises(_core.EngineUnavailable, match="expected OpenVINO's C library, got one wit"):
        open_policy(tiny_policy, library=_core.__file__, engine="openvino")


def test_properties_unknown_to_openvino_are_refused(tiny_policy: Path) -> None:
    pytest.importorskip("openvino", reason="pip install 'flux-runtime[openvino]'")
    with pytest.raises(RuntimeError, match="Unsupported property COLOUR"):
        open_policy(tiny_policy, engine="openvino", COLOUR="RED")


def test_an_unknown_engine_and_options_for_the_cpu_are_refused(tiny_policy: Path) -> None:
    with pytest.raises(ValueError, match="engine: expected 'onnxruntime', .*, got 'tpu'"):
        open_policy(tiny_policy, engine="tpu")
    with pytest.raises(ValueError, match="provider_options: expected none .*, got use_tf32"):
        open_policy(tiny_policy, use_tf32="0")


@pytest.mark.parametrize("engine", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_a_provider_missing_from_the_library_is_not_blamed_on_the_graph(
    tiny_policy: Path, engine: str
) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has the providers")
    with pytest.raises(_core.EngineUnavailable, match="provider: .* not enabled in this build"):
        open_policy(tiny_policy, engine=engine)


def test_the_slots_for_accelerator_memory_match_their_names(tiny_policy: Path) -> None:
    """Allocates CPU memory through the same functions as GPU memory."""
    library = ctypes.CDLL(str(onnxruntime_library.find_library()))
    library.OrtGetApiBase.restype = ctypes.POINTER(ctypes.c_void_p)
    get_api = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)(library.OrtGetApiBase()[0])
    table = (ctypes.c_void_p * 138).from_address(get_api(19))

    def call(slot: int, *arguments: Any) -> None:
        function = ctypes.CFUNCTYPE(ctypes.c_void_p, *map(type, arguments))(table[slot])
        assert function(*arguments) is None

    def make(slot: int, *arguments: Any) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        function = ctypes.CFUNCTYPE(ctypes.c_void_p, *map(type, arguments), ctypes.c_void_p)(
            table[slot]
        )
        assert function(*arguments, ctypes.addressof(handle)) is None
        return handle

    text, number, size = ctypes.c_char_p, ctypes.c_int, ctypes.c_size_t
    path = text(str(tiny_policy / "prefix.onnx").encode())
    session = make(7, make(3, number(3), text(b"test")), path, make(10))
    memory_info = make(68, text(b"Cpu"), number(0), number(0), number(0))  # CreateMemoryInfo
    allocator = make(131, session, memory_info)  # CreateAllocator
    memory = make(75, allocator, size(64))  # AllocatorAlloc
    assert memory.value is not None
    ctypes.memset(memory, 7, 64)
    call(76, allocator, memory)  # AllocatorFree
    for slot, handle in ((132, allocator), (94, memory_info), (95, session)):
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(table[slot])(handle)


def test_the_library_is_found_without_importing_onnxruntime() -> None:
    library = onnxruntime_library.find_library()
    assert library.is_file() and library.parent.name == "capi"
    assert library.name.endswith(onnxruntime.__version__)


def test_a_missing_onnxruntime_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'flux-runtime\[cpu\]'"):
        onnxruntime_library.find_library()
