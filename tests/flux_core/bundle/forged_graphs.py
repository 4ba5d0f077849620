"""Forged graphs and weights. A forger also updates the hash in the manifest."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from flux_core.bundle.files import MAX_JSON_BYTES
from flux_core.bundle.onnx_header import MAX_GRAPH_BYTES

from .damage_table import CASES, Case, Damage, case, hash_again_sparse
from .toy_bundle import change_graph, edit, hash_again

# The graphs. A forger also updates the hash in the manifest.


def graph_bytes(content: bytes, name: str = "prefix.onnx") -> Damage:
    def damage(path: Path) -> None:
        (path / name).write_bytes(content)
        hash_again(path)

    return damage


for _name, _content, _expected in (
    ("an_empty_graph", b"", "prefix.onnx: not an ONNX graph (no graph in it)"),
    ("text_as_graph", b"not a graph", "prefix.onnx: not an ONNX graph (wire type 6)"),
    ("a_long_varint", b"\x08" + b"\xff" * 20, "not an ONNX graph (an integer of more than 10"),
    ("a_long_length", b"\x3a\xff\xff\xff\xff\x7f", "(cut off, or a length that is too large)"),
    ("tiny_fields", b"\x08\x01" * 600_000, "not an ONNX graph (more than 500000 fields)"),
):
    CASES.append(Case(_name, graph_bytes(_content), _expected))


def graph(expected: str, file: str = "prefix.onnx") -> Callable[[Any], Any]:
    """Adds a row in which a graph is changed with the `onnx` package."""

    def add(change: Callable[[onnx.ModelProto], object]) -> Any:
        CASES.append(Case(change.__name__, lambda path: change_graph(path, change, file), expected))
        return change

    return add


def weight(model: onnx.ModelProto) -> TensorProto:
    return next(t for t in model.graph.initializer if t.external_data)


def put(model: onnx.ModelProto, key: str, value: object) -> None:
    next(entry for entry in weight(model).external_data if entry.key == key).value = str(value)


@case(f"denoise.onnx: expected a graph of at most {MAX_GRAPH_BYTES} bytes, got 134217729")
def a_gigantic_graph(path: Path) -> None:
    os.truncate(path / "denoise.onnx", MAX_GRAPH_BYTES + 1)
    hash_again_sparse(path, "denoise.onnx")


@graph("prefix.onnx: inputs: expected ['images', 'image_masks', 'lang_tokens', 'lang_masks'] as")
def another_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "pictures"


@graph("prefix.onnx: outputs: expected ['prefix_pad_masks', 'past_key_0'")
def one_output_more(model: onnx.ModelProto) -> None:
    model.graph.output.add().CopyFrom(
        helper.make_tensor_value_info("more", TensorProto.FLOAT, [2**20])
    )


@graph("images': shape: expected at most 8 dimensions from 1 to 2147483647, got [1, 1, 1099511627")
def an_absurd_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 2**40


@graph("images': expected uint8 [1, 1, 96, 128, 3] as in the manifest, got uint8 [1, 1, 1073741")
def a_huge_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 2**30


@graph("images': shape: expected at most 8 dimensions from 1 to 2147483647, got [1, -1]")
def a_negative_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = -1


@graph("input 'images': expected a static shape, got 'batch'")
def a_dynamic_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"


@graph("input 'images': expected a static shape, got 'none'")
def an_input_without_shape(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


@graph("input 'images': expected a tensor, got 'another type'")
def a_sequence_as_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].CopyFrom(
        helper.make_tensor_sequence_value_info("images", TensorProto.FLOAT, [1])
    )


@graph("input 'images': type: expected one of float32, uint8, int8")
def text_as_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING


@graph("has a default for the input 'images', which flux-export does not write")
def an_input_with_a_default(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.uint8), "images"))


@case("manifest.json: other/prefix.onnx: expected a graph beside the weights")
def weights_beside_a_moved_graph(path: Path) -> None:
    (path / "other").mkdir()
    (path / "prefix.onnx").rename(path / "other" / "prefix.onnx")
    save_file({"evil": np.zeros(2**20, np.float32)}, path / "other" / "model.safetensors")

    def change(data: dict[str, Any]) -> None:
        data["graphs"]["prefix"]["file"] = "other/prefix.onnx"
        del data["files"]["prefix.onnx"]
        data["files"] |= {"other/prefix.onnx": {}, "other/model.safetensors": {}}

    edit(path, change)
    hash_again(path)


@graph("expected its values in model.safetensors, got '../model.safetensors'. Do not use")
def weights_beside_the_bundle(model: onnx.ModelProto) -> None:
    put(model, "location", "../model.safetensors")


@graph("expected its values in model.safetensors, got '/etc/shadow'")
def weights_of_the_system(model: onnx.ModelProto) -> None:
    put(model, "location", "/etc/shadow")


@graph("expected its values in model.safetensors, got '*/_ORT_MEM_ADDR_/*'")
def weights_in_the_engines_memory(model: onnx.ModelProto) -> None:
    put(model, "location", "*/_ORT_MEM_ADDR_/*")


@graph("expected its values in model.safetensors, got 'config.json'")
def weights_in_another_file(model: onnx.ModelProto) -> None:
    put(model, "location", "config.json")


@graph("bytes of model.safetensors, got an end at byte 1099511646592")
def weights_beyond_the_end(model: onnx.ModelProto) -> None:
    put(model, "offset", 2**40)


@graph("expected a tensor of model.safetensors, got bytes 0 to 18816")
def weights_in_the_header(model: onnx.ModelProto) -> None:
    put(model, "offset", 0)


@graph("external data: offset: expected a number of bytes, got '-1'")
def a_negative_offset(model: onnx.ModelProto) -> None:
    put(model, "offset", -1)


@graph("expected 18816 bytes for float32 [32, 3, 7, 7], got 999999999999")
def weights_that_are_too_long(model: onnx.ModelProto) -> None:
    put(model, "length", 999_999_999_999)


@graph("shape: expected at most 8 dimensions from 0 to 2147483647, got [1099511627776]")
def weights_of_an_absurd_shape(model: onnx.ModelProto) -> None:
    weight(model).dims[0] = 2**40


@graph("expected 1262720384436 bytes for float32 [2147483647, 3, 7, 7], got 18816")
def weights_of_a_huge_shape(model: onnx.ModelProto) -> None:
    weight(model).dims[0] = 2**31 - 1


@graph("stem.weight': expected float32 as in model.safetensors, got int32")
def weights_of_another_type(model: onnx.ModelProto) -> None:
    weight(model).data_type = TensorProto.INT32


@graph("external data: expected location, offset and length, got ['location']")
def weights_without_a_place(model: onnx.ModelProto) -> None:
    del weight(model).external_data[1:]


@graph("external data: expected 'location' once, got it twice")
def weights_in_two_places(model: onnx.ModelProto) -> None:
    weight(model).external_data.add(key="location", value="/etc/shadow")


@graph("is stored both inside and outside")
def weights_inside_and_outside(model: onnx.ModelProto) -> None:
    weight(model).data_location = TensorProto.DEFAULT


@graph("not an ONNX graph (two constants called ")
def two_constants_of_one_name(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


@graph("constant 'big': expected 8796093022208 bytes for int64 [1048576, 1048576], got 0")
def a_constant_without_its_bytes(model: onnx.ModelProto) -> None:
    tensor = TensorProto(name="big", data_type=TensorProto.INT64, dims=[2**20, 2**20], raw_data=b"")
    model.graph.initializer.append(tensor)


@graph("constant 'big': expected 4398046511104 bytes for float32 [1048576, 1048576], got ")
def a_constant_of_few_numbers(model: onnx.ModelProto) -> None:
    tensor = TensorProto(name="big", data_type=TensorProto.FLOAT, dims=[2**20, 2**20])
    tensor.float_data.append(1.0)
    model.graph.initializer.append(tensor)


@graph("has external data in an attribute of 'Constant', which flux-export does not write")
def a_constant_node_outside(model: onnx.ModelProto) -> None:
    node = helper.make_node("Constant", [], ["c"], value=weight(model))
    model.graph.node.append(node)


@graph("has a nested graph or sparse tensor in 'If'")
def a_nested_graph(model: onnx.ModelProto) -> None:
    inner = helper.make_graph([], "inner", [], [], [weight(model)])
    model.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=inner))


@graph("has the operator 'com.microsoft.EPContext'")
def a_compiled_engine(model: onnx.ModelProto) -> None:
    node = helper.make_node(
        "EPContext", ["images"], ["c"], domain="com.microsoft", ep_cache_context="../evil.engine"
    )
    model.graph.node.append(node)


@graph("has functions, which flux-export does not write")
def a_function(model: onnx.ModelProto) -> None:
    model.functions.append(helper.make_function("d", "f", [], [], [], []))


@graph("has sparse_initializer, which flux-export does not write")
def a_sparse_constant(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add()


@graph("has training_info, which flux-export does not write")
def training_info(model: onnx.ModelProto) -> None:
    model.training_info.add()


@case("prefix.onnx: not an ONNX graph (graph appears twice)")
def two_graphs_in_one(path: Path) -> None:
    content = (path / "prefix.onnx").read_bytes()
    other = onnx.ModelProto()
    other.graph.initializer.add().CopyFrom(weight(onnx.load_from_string(content)))
    (path / "prefix.onnx").write_bytes(content + other.SerializeToString())
    hash_again(path)


# The weights.


def header_of(name: str, change: Callable[[dict[str, Any]], object]) -> Damage:
    """Rewrites the header of a safetensors file; the data does not change."""

    def damage(path: Path) -> None:
        content = (path / name).read_bytes()
        begin = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:begin])
        change(header)
        text = json.dumps(header).encode()
        (path / name).write_bytes(len(text).to_bytes(8, "little") + text + content[begin:])
        hash_again(path)

    return damage


WEIGHT = "action_in_proj.projector.bias"


def weights(expected: str, change: Callable[[dict[str, Any]], object], name: str) -> None:
    CASES.append(Case(name, header_of("model.safetensors", change), expected))


def entry(header: dict[str, Any]) -> dict[str, Any]:
    return header[WEIGHT]


weights(
    f"model.safetensors: tensor '{WEIGHT}'.dtype: expected one of BOOL, I8",
    lambda h: entry(h).update(dtype="F8_E5M2"),
    "a_weight_of_an_unknown_type",
)
weights(
    f"tensor '{WEIGHT}': data_offsets: expected 128 bytes for bool [128], got 512",
    lambda h: entry(h).update(dtype="BOOL"),
    "a_weight_of_another_size",
)
weights(
    f"tensor '{WEIGHT}'.shape[0]: expected an integer from 0 to 2147483648, got 1099511627776",
    lambda h: entry(h).update(shape=[2**40]),
    "a_weight_of_an_absurd_shape",
)
weights(
    f"tensor '{WEIGHT}': expected to begin at byte ",
    lambda h: entry(h).update(data_offsets=[x + 4 for x in entry(h)["data_offsets"]]),
    "a_weight_at_another_place",
)
weights(
    f"tensor '{WEIGHT}'.data_offsets[0]: expected an integer from 0",
    lambda h: entry(h).update(data_offsets=[-512, 0]),
    "a_weight_before_the_file",
)
weights(
    f"tensor '{WEIGHT}'.shape: the key is missing",
    lambda h: entry(h).pop("shape"),
    "a_weight_without_shape",
)


@case("model.safetensors: ends within its header")
def a_header_longer_than_the_file(path: Path) -> None:
    content = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + content[8:])
    hash_again(path)


@case(f"model.safetensors: expected a header of at most {MAX_JSON_BYTES} bytes, got 16777208")
def a_gigantic_header(path: Path) -> None:
    with (path / "model.safetensors").open("wb") as stream:
        stream.write((2**24 - 8).to_bytes(8, "little"))
        stream.truncate(2**24)
    hash_again_sparse(path, "model.safetensors")


@case(" bytes, the end of its last tensor, got ")
def bytes_behind_the_weights(path: Path) -> None:
    with (path / "model.safetensors").open("ab") as stream:
        stream.write(b"#!/bin/sh")
    hash_again(path)


@case("expected values within the 88 bytes of model.safetensors")
def weights_of_another_network(path: Path) -> None:
    save_file({"other": np.zeros(4, np.float32)}, path / "model.safetensors")
    hash_again(path)
