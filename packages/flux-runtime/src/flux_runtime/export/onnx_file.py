"""Traces a module to ONNX, with its weights in one safetensors file beside it.

Both graphs and all readers of checkpoints share `model.safetensors`: ONNX describes external data
by a file, an offset and a length, and safetensors stores each tensor's raw bytes at a known offset.
"""

from __future__ import annotations

import json
import logging
import struct
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import torch
from onnxscript.optimizer import optimize_ir
from torch import Tensor, nn

from flux_core.errors import ExportError

from .precision.float8 import ONNX_OPERATORS

MODEL_PREFIX = "model."
MAX_CONSTANT_BYTES = 1 << 20
"""Constants up to this size that are not weights (shapes, masks, scales) stay in the graph."""


def export_graph(
    module: nn.Module,
    inputs: tuple[Tensor | None, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    *,
    opset: int,
    weights_file: Path,
) -> onnx.ModelProto:
    """Traces `module` at static shapes; its weights are references into `weights_file`.

    Raises:
        ExportError: a large constant in the graph is not a tensor of the file.
    """
    module.eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            inputs,
            input_names=list(input_names),
            output_names=list(output_names),
            opset_version=opset,
            dynamo=True,
            custom_translation_table=ONNX_OPERATORS,
            # Optimized below, so that each weight stays the checkpoint's tensor. ONNX Runtime
            # folds the remaining constants when it loads a graph.
            optimize=False,
            verbose=False,
        )
    assert program is not None
    offsets = tensor_offsets(weights_file)
    # TensorRT requires axes and shapes to be constants.
    optimize_ir(program.model, should_fold=lambda node: None if _is_free(node, offsets) else False)
    expand_attention_masks(program.model)
    share_weights(program.model, weights_file, offsets)
    return without_traces(onnx_ir.to_proto(program.model))


def expand_attention_masks(model: onnx_ir.Model) -> None:
    """Expands the mask of every Attention operator (opset 23 or later) to its full size.

    The ONNX standard allows masks that are broadcast; ONNX Runtime does not.
    """
    for node in list(model.graph):
        if node.op_type != "Attention" or node.domain != "" or len(node.inputs) < 4:
            continue
        queries, keys, _, mask = node.inputs[:4]
        assert queries is not None and keys is not None and mask is not None
        assert queries.shape is not None and keys.shape is not None
        shape = np.array([queries.shape[0], 1, queries.shape[2], keys.shape[2]], np.int64)
        size = onnx_ir.val(f"{node.name}_mask_shape", const_value=onnx_ir.tensor(shape))
        model.graph.register_initializer(size)
        expand = onnx_ir.node("Expand", [mask, size])
        node.prepend(expand)
        node.replace_input_with(3, expand.outputs[0])


def without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Removes the exporter's metadata (stack traces, paths on this machine) from the graph."""
    graph = model.graph
    for noted in (model, graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input):
        noted.ClearField("metadata_props")
        noted.ClearField("doc_string")
    del graph.value_info[:]
    return model


def _is_free(node: onnx_ir.Node, weights: Collection[str]) -> bool:
    """Whether none of the node's inputs is a weight."""
    return not any(_weight_name(value) in weights for value in node.inputs if value is not None)


def _weight_name(value: onnx_ir.Value) -> str:
    return (value.name or "").removeprefix(MODEL_PREFIX)


def share_weights(
    model: onnx_ir.Model, weights_file: Path, offsets: Mapping[str, tuple[int, int]]
) -> None:
    """Makes every weight of the graph refer to its tensor in `weights_file`, without copying it.

    Raises:
        ExportError: a large constant in the graph is not a weight of the model.
    """
    for initializer in model.graph.initializers.values():
        value = initializer.const_value
        assert value is not None and initializer.name is not None
        name = _weight_name(initializer)
        if name not in offsets and value.nbytes <= MAX_CONSTANT_BYTES:
            continue
        if name not in offsets or offsets[name][1] != value.nbytes:
            raise ExportError(
                f"{initializer.name}: expected a tensor of {weights_file.name}, got a constant of "
                f"{value.nbytes} bytes that exists only in the graph. Report this as a bug."
            )
        offset, length = offsets[name]
        initializer.const_value = onnx_ir.ExternalTensor(
            weights_file.name,
            offset,
            length,
            value.dtype,
            name=initializer.name,
            shape=onnx_ir.Shape([int(dim) for dim in value.shape.numpy()]),
            base_dir=weights_file.parent,
        )


def tensor_offsets(file: Path) -> dict[str, tuple[int, int]]:
    """Returns name -> (offset, length) in bytes for every tensor of a safetensors file."""
    with file.open("rb") as stream:
        (header_bytes,) = struct.unpack("<Q", stream.read(8))
        header: Mapping[str, Any] = json.loads(stream.read(header_bytes))
    begin = 8 + header_bytes
    return {
        name: (
            begin + entry["data_offsets"][0],
            entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in header.items()
        if name != "__metadata__"
    }


def signature(values: Sequence[onnx.ValueInfoProto]) -> list[tuple[str, str, tuple[int, ...]]]:
    """Returns (name, numpy dtype, shape) for graph inputs or outputs."""
    found = []
    for value in values:
        tensor = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        found.append((value.name, dtype, tuple(d.dim_value for d in tensor.shape.dim)))
    return found
