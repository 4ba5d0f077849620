"""The parts of bundles whose networks are small ONNX graphs, written by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from flux_core.bundle.bundle import GraphSignature, TensorSignature

TOKENS = 8
DTYPES = {
    "uint8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
    "int64": TensorProto.INT64,
    "float32": TensorProto.FLOAT,
}

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name -> dtype and shape."""
Graph = tuple[list[Any], dict[str, Any]]
"""Nodes and constants."""


def graph_tensors(
    *, cameras: int, joints: int, horizon: int, image_shape: tuple[int, int, int]
) -> dict[str, tuple[Tensors, Tensors]]:
    """Returns the inputs and outputs of the two graphs."""
    length = cameras + TOKENS
    prefix_in: Tensors = {
        "images": ("uint8", (1, cameras, *image_shape)),
        "image_masks": ("bool", (1, cameras)),
        "lang_tokens": ("int64", (1, TOKENS)),
        "lang_masks": ("bool", (1, TOKENS)),
    }
    prefix_out: Tensors = {
        "prefix_pad_masks": ("bool", (1, length)),
        "past_key_0": ("float32", (1, 1, length, 2)),
        "past_value_0": ("float32", (1, 1, length, 2)),
    }
    denoise_in: Tensors = {
        "state": ("float32", (1, joints)),
        "x_t": ("float32", (1, horizon, joints)),
        "t": ("float32", (1, horizon)),
        **prefix_out,
    }
    denoise_out: Tensors = {
        "x_next": ("float32", (1, horizon, joints)),
        "t_next": ("float32", (1, horizon)),
    }
    return {"prefix": (prefix_in, prefix_out), "denoise": (denoise_in, denoise_out)}


def save_graph(path: Path, graph: Graph, tensors: tuple[Tensors, Tensors]) -> None:
    """Writes a graph and checks it."""
    nodes, constants = graph
    inputs, outputs = (
        [helper.make_tensor_value_info(n, DTYPES[d], s) for n, (d, s) in side.items()]
        for side in tensors
    )
    initializers = [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()]
    made = helper.make_graph(nodes, path.stem, inputs, outputs, initializers)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def signature(file: str, inputs: Tensors, outputs: Tensors) -> GraphSignature:
    """Returns what the manifest says of a graph."""

    def side(tensors: Tensors) -> tuple[TensorSignature, ...]:
        return tuple(TensorSignature(name=n, dtype=d, shape=s) for n, (d, s) in tensors.items())

    return GraphSignature(file=file, inputs=side(inputs), outputs=side(outputs))


def golden(
    prefix_inputs: Tensors,
    *,
    brightness: int,
    state: NDArray[np.float32],
    actions: NDArray[np.float32],
) -> dict[str, NDArray[Any]]:
    """Returns a golden: pictures of one brightness, and a state, (1, joints), give actions, (1,
    horizon, joints)."""
    inputs = {
        name: np.full(shape, brightness if name == "images" else 1, dtype)
        for name, (dtype, shape) in prefix_inputs.items()
    }
    return {
        **{f"input.{name}": value for name, value in inputs.items()},
        "input.state": state,
        "input.noise": np.ones(actions.shape, np.float32),
        "output.actions": actions,
        "output.x_next_first": actions,
    }


def circle_config(
    spec: Mapping[str, Any], execution_horizon: int, image_shape: tuple[int, int, int]
) -> dict[str, Any]:
    """Returns the config of a policy whose only task is to circle."""
    normalize = {"norm_type": "mean_std", "action_key": "action"}
    transforms = [
        {"type": "NormalizeStatesAndActions", "state_key": "proprio", **normalize},
        {"type": "TaskPrompter"},
        {"type": "ProcessPrompts", "tokenizer": {"type": "ByteTokenizer"}, "max_len": TOKENS},
        {"type": "ResizeImages", "height": image_shape[0], "width": image_shape[1]},
        {"type": "SimpleNormalizeImages"},
    ]
    inference = {
        "type": "InferenceRunner",
        "robot": {"type": "RobotSpec", **spec},
        "task_descriptions": {"1": "circle"},
        "dataset": {
            "type": "ObservationTransforms",
            "img_keys": list(spec["cameras"]),
            "transforms": transforms,
        },
        "denormalize_action": {"type": "DenormalizeActions", **normalize},
        "execution_horizon": execution_horizon,
    }
    return {"inference": inference}


def unit_stats(robot: str, joints: int) -> dict[str, Any]:
    """Returns statistics with which normalising changes nothing."""
    feature = {
        "mean": [0.0] * joints,
        "std": [1.0] * joints,
        "min": [-1.0] * joints,
        "max": [1.0] * joints,
        "q01": [-1.0] * joints,
        "q99": [1.0] * joints,
        "count": 100,
    }
    return {robot: {"proprio": feature, "action": feature}}
