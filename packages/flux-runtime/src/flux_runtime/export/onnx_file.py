"""Traces a module to ONNX whose weights stay in one safetensors file beside it.

Both graphs and every reader of checkpoints share `model.safetensors`: ONNX external data is a file,
an offset and a length, and a safetensors file holds each tensor's plain bytes at a known offset.
"""

from __future__ import annotations

import json
import logging
import struct
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from flux_core.errors import ExportError

OPSET = 20
MODEL_PREFIX = "model."
SMALL_BYTES = 1024
"""Constants up to this size that are no weights (shapes, scales) stay inside the graph."""


def export_graph(
    module: nn.Module,
    inputs: tuple[Tensor | None, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
) -> onnx.ModelProto:
    """Traces `module` at static shapes."""
    module.eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            inputs,
            input_names=list(input_names),
            output_names=list(output_names),
            opset_version=OPSET,
            dynamo=True,
            # Unfolded: each weight stays the checkpoint's tensor. ONNX Runtime folds at load.
            optimize=False,
            verbose=False,
        )
    assert program is not None
    return without_traces(program.model_proto)


def without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drops the exporter's notes (stack traces, paths of this machine) from the graph."""
    graph = model.graph
    for noted in (model, graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input):
        noted.ClearField("metadata_props")
        noted.ClearField("doc_string")
    del graph.value_info[:]
    return model


def share_weights(graph: onnx.ModelProto, weights_file: Path) -> None:
    """Points every weight of `graph` at its tensor in `weights_file`.

    Raises:
        ExportError: a large constant of the graph is no weight of the model.
    """
    offsets = tensor_offsets(weights_file)
    for initializer in graph.graph.initializer:
        num_bytes = onnx.numpy_helper.to_array(initializer).nbytes
        name = initializer.name.removeprefix(MODEL_PREFIX)
        if name not in offsets and num_bytes <= SMALL_BYTES:
            continue
        if name not in offsets or offsets[name][1] != num_bytes:
            raise ExportError(
                f"{initializer.name}: a constant of {num_bytes} bytes in the graph is not a tensor "
                f"of {weights_file.name}"
            )
        offset, length = offsets[name]
        initializer.ClearField("raw_data")
        initializer.ClearField("float_data")
        initializer.data_location = onnx.TensorProto.EXTERNAL
        place = {"location": weights_file.name, "offset": offset, "length": length}
        del initializer.external_data[:]
        for key, value in place.items():
            initializer.external_data.add(key=key, value=str(value))


def tensor_offsets(file: Path) -> dict[str, tuple[int, int]]:
    """Name -> (byte offset in the file, byte length) of every tensor of a safetensors file."""
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
    """(name, numpy dtype, shape) of graph inputs or outputs."""
    found = []
    for value in values:
        tensor = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        found.append((value.name, dtype, tuple(d.dim_value for d in tensor.shape.dim)))
    return found
