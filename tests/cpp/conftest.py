"""Two ONNX graphs that are small enough to repeat in numpy, with a weight in a file beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

HORIZON, DIM, STEPS = 5, 3, 4
WEIGHT = np.linspace(-0.4, 0.6, DIM * DIM, dtype=np.float32).reshape(DIM, DIM)
WEIGHTS_FILE, WEIGHT_OFFSET = "model.bin", 16

# name -> (numpy type, shape)
Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
PREFIX_INPUTS: Tensors = {"images": ("uint8", (1, 2, 4)), "mask": ("bool", (1, DIM))}
PREFIX_OUTPUTS: Tensors = {
    "prefix_pad_masks": ("bool", (1, DIM)),
    "past_key_0": ("float32", (1, DIM)),
}
DENOISE_INPUTS: Tensors = {
    "x_t": ("float32", (1, HORIZON, DIM)),
    "t": ("float32", (1, HORIZON)),
    "past_key_0": ("float32", (1, DIM)),
    "state": ("float32", (1, DIM)),
}
DENOISE_OUTPUTS: Tensors = {
    "x_next": ("float32", (1, HORIZON, DIM)),
    "t_next": ("float32", (1, HORIZON)),
}


def write_graph(path: Path, nodes: list[Any], inputs: Tensors, outputs: Tensors) -> None:
    """Writes a graph that may use the constants dt, last and the external `weight`."""
    import onnx
    from onnx import helper, numpy_helper

    def infos(tensors: Tensors) -> list[Any]:
        return [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape
            )
            for name, (dtype, shape) in tensors.items()
        ]

    constants = {"dt": np.float32(-1 / STEPS), "last": np.array([2], np.int64)}
    initializers = [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()]
    initializers.append(external_weight())
    graph = helper.make_graph(nodes, path.stem, infos(inputs), infos(outputs), initializers)
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)


def external_weight() -> Any:
    """Returns a tensor whose bytes are in WEIGHTS_FILE beside the graph."""
    from onnx import TensorProto

    tensor = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=WEIGHT.shape)
    tensor.data_location = TensorProto.EXTERNAL
    place = {"location": WEIGHTS_FILE, "offset": WEIGHT_OFFSET, "length": WEIGHT.nbytes}
    for key, value in place.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def prefix_nodes() -> list[Any]:
    """past_key_0 = mask * mean(images)."""
    from onnx import TensorProto, helper

    return [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], keepdims=0),
        helper.make_node("Cast", ["mask"], ["ones"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["ones", "mean"], ["past_key_0"]),
        helper.make_node("Identity", ["mask"], ["prefix_pad_masks"]),
    ]


def denoise_nodes() -> list[Any]:
    """x_next = x_t + dt * (tanh(x_t @ weight) + t * past_key_0 + state)."""
    from onnx import helper

    return [
        helper.make_node("MatMul", ["x_t", "weight"], ["hidden"]),
        helper.make_node("Tanh", ["hidden"], ["bent"]),
        helper.make_node("Unsqueeze", ["t", "last"], ["times"]),
        helper.make_node("Mul", ["times", "past_key_0"], ["pull"]),
        helper.make_node("Add", ["bent", "pull"], ["pulled"]),
        helper.make_node("Add", ["pulled", "state"], ["velocity"]),
        helper.make_node("Mul", ["velocity", "dt"], ["change"]),
        helper.make_node("Add", ["x_t", "change"], ["x_next"]),
        helper.make_node("Add", ["t", "dt"], ["t_next"]),
    ]


def write_policy(
    directory: Path,
    *,
    prefix_inputs: Tensors = PREFIX_INPUTS,
    denoise_inputs: Tensors = DENOISE_INPUTS,
    denoise_outputs: Tensors = DENOISE_OUTPUTS,
    nodes: Callable[[], list[Any]] = denoise_nodes,
    key_dtype: str = "float32",
) -> Path:
    """Writes prefix.onnx, denoise.onnx and their weights.

    A key in half precision is cast at the end of the prefix and at the start of the denoise graph.
    """
    prefix, denoise, outputs = prefix_nodes(), nodes(), dict(PREFIX_OUTPUTS)
    if key_dtype != "float32":
        outputs["past_key_0"] = (key_dtype, PREFIX_OUTPUTS["past_key_0"][1])
        denoise_inputs = dict(denoise_inputs, past_key_0=outputs["past_key_0"])
        prefix, denoise = cast_key(prefix, denoise, key_dtype)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / WEIGHTS_FILE).write_bytes(b"\0" * WEIGHT_OFFSET + WEIGHT.tobytes())
    write_graph(directory / "prefix.onnx", prefix, prefix_inputs, outputs)
    write_graph(directory / "denoise.onnx", denoise, denoise_inputs, denoise_outputs)
    return directory


def cast_key(prefix: list[Any], denoise: list[Any], dtype: str) -> tuple[list[Any], list[Any]]:
    """Returns the same nodes with another type of past_key_0 between the two graphs."""
    import ml_dtypes
    from onnx import TensorProto, helper

    assert np.dtype(dtype) in (np.float16, ml_dtypes.bfloat16)
    half = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    for node in prefix:
        node.output[:] = ["key" if name == "past_key_0" else name for name in node.output]
    for node in denoise:
        node.input[:] = ["key" if name == "past_key_0" else name for name in node.input]
    return (
        [*prefix, helper.make_node("Cast", ["key"], ["past_key_0"], to=half)],
        [helper.make_node("Cast", ["past_key_0"], ["key"], to=TensorProto.FLOAT), *denoise],
    )


def make_inputs(seed: int = 0) -> dict[str, np.ndarray]:
    """Returns inputs of the tiny policy."""
    generator = np.random.default_rng(seed)
    return {
        "images": generator.integers(0, 3, (1, 2, 4), np.uint8),
        "mask": np.array([[True, False, True]]),
        "state": generator.standard_normal((1, DIM), np.float32),
    }


def make_noise(seed: int = 0) -> np.ndarray:
    """Returns (H, A) standard normal noise."""
    return np.random.default_rng(100 + seed).standard_normal((HORIZON, DIM), np.float32)


def numpy_actions(inputs: Mapping[str, np.ndarray], noise: np.ndarray) -> np.ndarray:
    """Repeats the policy in float64."""
    key = inputs["mask"] * inputs["images"].mean()
    x, t = noise.astype(np.float64), 1.0
    for _ in range(STEPS):
        x = x - (np.tanh(x @ WEIGHT.astype(np.float64)) + t * key + inputs["state"]) / STEPS
        t -= 1 / STEPS
    return x


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the two graphs."""
    return write_policy(tmp_path_factory.mktemp("tiny_policy"))


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    """The parts of this module that the tests use."""
    return SimpleNamespace(
        HORIZON=HORIZON,
        DIM=DIM,
        STEPS=STEPS,
        PREFIX_INPUTS=PREFIX_INPUTS,
        DENOISE_INPUTS=DENOISE_INPUTS,
        DENOISE_OUTPUTS=DENOISE_OUTPUTS,
        denoise_nodes=denoise_nodes,
        write_policy=write_policy,
        inputs=make_inputs,
        noise=make_noise,
        numpy_actions=numpy_actions,
    )
