"""A bundle with two tiny ONNX graphs whose weights are in model.safetensors, and its damage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from flux_core.bundle.bundle import (
    MANIFEST_NAME,
    Bundle,
    GraphSignature,
    Manifest,
    TensorSignature,
    write_manifest,
)
from flux_core.errors import BundleError

HORIZON, ACTION_DIM, TOKENS = 5, 3, 4
ACTIONS = (1, HORIZON, ACTION_DIM)
Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
PREFIX_INPUTS: Tensors = {
    "images": ("uint8", (1, 2, 6, 8, 3)),
    "image_masks": ("bool", (1, 2)),
    "lang_tokens": ("int64", (1, TOKENS)),
    "lang_masks": ("bool", (1, TOKENS)),
}
CACHE: Tensors = {
    "prefix_pad_masks": ("bool", (1, 2 + TOKENS)),
    "past_key_0": ("float32", (1, ACTION_DIM)),
}
DENOISE_INPUTS: Tensors = {
    "x_t": ("float32", ACTIONS),
    "t": ("float32", (1, HORIZON)),
    **CACHE,
}
DENOISE_OUTPUTS: Tensors = {"x_next": ("float32", ACTIONS), "t_next": ("float32", (1, HORIZON))}
WEIGHTS = {
    "embedding": np.linspace(-1, 1, TOKENS * ACTION_DIM, dtype=np.float32).reshape(TOKENS, -1),
    "unused": np.arange(3, dtype=np.int64),
}

OPTIONAL: dict[str, Any] = {
    "components": {"AlohaToPi": {"distribution": "flux-core", "version": "2026.11.0"}},
    "data_summary": {"fps": 50, "action": {"min": [-1.5, 0], "q01": [-1.0, 0.1]}},
    "robot_spec": {"max_jerk": [1e3, 2e3], "kinematics": {"base": "table", "is_fixed": True}},
    "model_kind": "flow_matching",
    "model_options": {"schedule": ["linear", 10, None]},
}


def signature(file: str, inputs: Tensors, outputs: Tensors) -> GraphSignature:
    def side(tensors: Tensors) -> tuple[TensorSignature, ...]:
        return tuple(TensorSignature(name=n, dtype=d, shape=s) for n, (d, s) in tensors.items())

    return GraphSignature(file=file, inputs=side(inputs), outputs=side(outputs))


def a_manifest() -> Manifest:
    return Manifest(
        model="pi05",
        robot="toy",
        robots=("toy", "other"),
        control_hz=50.0,
        cameras=("cam_a", "cam_b"),
        image_height=6,
        image_width=8,
        state_dim=ACTION_DIM,
        action_dim=ACTION_DIM,
        action_horizon=HORIZON,
        execution_horizon=4,
        num_inference_steps=3,
        max_prompt_tokens=TOKENS,
        prompt="pick up the cube ☕",
        tasks={"0": "pick up the cube ☕"},
        precision="fp32",
        graphs={
            "prefix": signature("prefix.onnx", PREFIX_INPUTS, CACHE),
            "denoise": signature("denoise.onnx", DENOISE_INPUTS, DENOISE_OUTPUTS),
        },
        provenance={"seed": 1, "loss": 0.5, "note": None},
    )


def golden_tensors() -> dict[str, np.ndarray]:
    return {
        "input.images": np.zeros((1, 2, 6, 8, 3), np.uint8),
        "input.image_masks": np.ones((1, 2), bool),
        "input.lang_tokens": np.zeros((1, TOKENS), np.int64),
        "input.lang_masks": np.ones((1, TOKENS), bool),
        "input.noise": np.zeros(ACTIONS, np.float32),
        "output.actions": np.zeros(ACTIONS, np.float32),
        "output.x_next_first": np.zeros(ACTIONS, np.float32),
    }


def weight_places(file: Path) -> dict[str, tuple[int, int]]:
    """Offset and length of each tensor, read without our code."""
    content = file.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:begin])
    return {
        name: (
            begin + entry["data_offsets"][0],
            entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in header.items()
        if name != "__metadata__"
    }


def external(name: str, array: np.ndarray, offset: int, length: int) -> TensorProto:
    tensor = numpy_helper.from_array(array, name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    place = {"location": "model.safetensors", "offset": offset, "length": length}
    for key, value in place.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def write_graphs(directory: Path) -> None:
    def save(
        file: str, nodes: list[Any], inputs: Tensors, outputs: Tensors, constants: list[Any]
    ) -> None:
        infos = [
            [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape
                )
                for name, (dtype, shape) in side.items()
            ]
            for side in (inputs, outputs)
        ]
        graph = helper.make_graph(nodes, file, *infos, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        (directory / file).write_bytes(model.SerializeToString())
        onnx.checker.check_model(directory / file, full_check=True)

    place = weight_places(directory / "model.safetensors")["embedding"]
    node = helper.make_node
    save(
        "prefix.onnx",
        [
            node("Concat", ["image_masks", "lang_masks"], ["prefix_pad_masks"], axis=1),
            node("Cast", ["lang_tokens"], ["tokens"], to=TensorProto.FLOAT),
            node("Gemm", ["tokens", "embedding", "bias"], ["past_key_0"]),
        ],
        PREFIX_INPUTS,
        CACHE,
        [
            external("embedding", WEIGHTS["embedding"], *place),
            numpy_helper.from_array(np.ones(ACTION_DIM, np.float32), "bias"),
        ],
    )
    save(
        "denoise.onnx",
        [
            node("Add", ["x_t", "past_key_0"], ["x_next"]),
            node("Constant", [], ["dt"], value=numpy_helper.from_array(np.float32(-0.1))),
            node("Add", ["t", "dt"], ["t_next"]),
        ],
        DENOISE_INPUTS,
        DENOISE_OUTPUTS,
        [helper.make_tensor("unpacked", TensorProto.INT64, [2], [1, 2])],
    )


def write_files(directory: Path) -> None:
    (directory / "tokenizer").mkdir(parents=True)
    (directory / "config.json").write_text('{"transforms": []}')
    (directory / "norm_stats.json").write_text('{"toy": {}}')
    (directory / "tokenizer" / "tokenizer.json").write_text("{}")
    save_file(WEIGHTS, directory / "model.safetensors", metadata={"format": "pt"})
    write_graphs(directory)
    save_file(golden_tensors(), directory / "golden.safetensors")


def write_bundle(directory: Path) -> Path:
    write_files(directory)
    write_manifest(directory, a_manifest())
    return directory


def refusal(path: Path, *, verify: bool = True) -> str:
    """Opens the bundle and returns the one-line error with which it is refused."""
    with pytest.raises(BundleError) as caught:
        Bundle.open(path, verify=verify).golden()
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the manifest in place."""
    data = json.loads((path / MANIFEST_NAME).read_text())
    change(data)
    (path / MANIFEST_NAME).write_text(json.dumps(data))


def hash_again(path: Path) -> None:
    """Writes the files' sizes and hashes into the manifest, as a forger would."""

    def change(data: dict[str, Any]) -> None:
        for name in data["files"]:
            content = (path / name).read_bytes()
            data["files"][name] = {
                "sha256": hashlib.sha256(content).hexdigest(),
                "bytes": len(content),
            }

    edit(path, change)


def change_graph(
    path: Path, change: Callable[[onnx.ModelProto], object], file: str = "prefix.onnx"
) -> None:
    """Changes a graph of a bundle in place, and updates its hash in the manifest."""
    model = onnx.load(path / file, load_external_data=False)
    change(model)
    (path / file).write_bytes(model.SerializeToString())
    hash_again(path)


def locations(value: Any, trail: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path of every value inside plain data."""
    yield trail
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, entry in items:
        yield from locations(entry, (*trail, key))
