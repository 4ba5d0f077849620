"""The least cost of running a graph: its arithmetic, and the bytes it has to read."""

from __future__ import annotations

import math

import onnx

Shapes = dict[str, tuple[int, ...]]


def graph_costs(model: onnx.ModelProto) -> dict[str, int]:
    """Counts the operations and bytes of a graph with static shapes.

    Returns:
        `flops`: multiplications and additions in matrix products and convolutions. `bytes`: size of
        the weights and inputs, each read once.
    """
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    shapes |= {constant.name: tuple(constant.dims) for constant in graph.initializer}
    return {
        "flops": sum(_operations(node, shapes) for node in graph.node),
        "bytes": _bytes(graph, shapes),
    }


def _operations(node: onnx.NodeProto, shapes: Shapes) -> int:
    if node.op_type not in ("MatMul", "Gemm", "Conv", "Attention"):
        return 0
    first, second, out = (shapes[name] for name in (*node.input[:2], node.output[0]))
    if node.op_type == "Conv":
        return 2 * math.prod(out) * math.prod(second[1:])
    if node.op_type == "Attention":  # queries by keys, then by values: (batch, head, token, dim)
        return 2 * math.prod(first[:3]) * second[2] * (first[3] + out[3])
    flipped = any(entry.name == "transA" and entry.i for entry in node.attribute)
    return 2 * math.prod(out) * first[-2 if flipped else -1]


def _bytes(graph: onnx.GraphProto, shapes: Shapes) -> int:
    """Excludes embedding tables, of which only the looked-up rows are read."""
    looked_up = {node.input[0] for node in graph.node if node.op_type == "Gather"}
    weights = sum(
        int(entry.value)
        for constant in graph.initializer
        for entry in constant.external_data
        if entry.key == "length" and constant.name not in looked_up
    )
    inputs = sum(
        math.prod(shapes[value.name])
        * onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).itemsize
        for value in graph.input
    )
    return weights + inputs
