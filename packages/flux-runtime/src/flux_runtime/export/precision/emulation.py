"""Rewrites a bfloat16 graph so that an engine without bfloat16 computes the same values.

Every operator computes in float32, and every result that was bfloat16 is rounded to it. Hardware
with bfloat16 does the same, with products in bfloat16 and sums in float32; only the order of a sum
may differ.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import TensorProto, helper

MOVES = {
    *("Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split"),
    *("Squeeze", "Tile", "Transpose", "Unsqueeze"),
}
"""Operators that only move values, so that nothing has to be rounded again."""


def emulate_bfloat16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a graph whose inputs, outputs and operators are float32 where they were bfloat16.

    The weights stay bfloat16 in their file, and are converted when they are used.

    Args:
        model: a graph as flux-export writes it: one level, with the type of each value known or
            inferable.
    """
    typed = onnx.shape_inference.infer_shapes(model)
    halves = _bfloat16_values(typed)
    graph = onnx.GraphProto()
    graph.CopyFrom(model.graph)
    del graph.node[:], graph.value_info[:]
    for value in (*graph.input, *graph.output):
        if value.name in halves:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for constant in graph.initializer:
        if constant.name in halves:
            stored = f"{constant.name}/stored"
            graph.node.append(_cast(stored, constant.name, TensorProto.FLOAT))
            constant.name = stored
    for node in model.graph.node:
        graph.node.extend(_emulated(node, halves))
    result = onnx.ModelProto()
    result.CopyFrom(model)
    result.graph.CopyFrom(graph)
    return result


def _bfloat16_values(model: onnx.ModelProto) -> set[str]:
    """Returns the names of all bfloat16 inputs, constants and results."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    names = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.BFLOAT16}
    return names | {t.name for t in graph.initializer if t.data_type == TensorProto.BFLOAT16}


def _emulated(node: onnx.NodeProto, halves: set[str]) -> Iterable[onnx.NodeProto]:
    """Yields the float32 operator and the rounding of its results."""
    rounded = [name for name in node.output if name in halves]
    if not rounded:
        yield node
        return
    wide = onnx.NodeProto()
    wide.CopyFrom(node)
    if node.op_type == "Cast":
        yield _cast(node.input[0], f"{rounded[0]}/exact", TensorProto.BFLOAT16)
        yield _cast(f"{rounded[0]}/exact", rounded[0], TensorProto.FLOAT)
        return
    if node.op_type in MOVES:
        yield wide
        return
    for at, name in enumerate(node.output):
        if name in halves:
            wide.output[at] = f"{name}/exact"
    yield wide
    for name in rounded:
        # A constant already is bfloat16.
        exact = f"{name}/exact"
        if node.op_type != "Constant":
            yield _cast(exact, f"{name}/rounded", TensorProto.BFLOAT16)
            exact = f"{name}/rounded"
        yield _cast(exact, name, TensorProto.FLOAT)


def _cast(source: str, target: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], to=to)
