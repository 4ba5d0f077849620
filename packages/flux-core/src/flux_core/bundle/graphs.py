"""Compares the ONNX files of a bundle with its manifest and its weights, before an engine does.

An engine allocates the sizes that a graph states and reads the offsets that it names. After this
check the sizes are those of the manifest, and every offset is that of a tensor in
model.safetensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import BundleError
from .checks import AGAIN, DAMAGED, ITEM_BYTES, fail, show
from .manifest import GraphSignature, Manifest, TensorSignature
from .onnx_header import ExternalTensor, read_graph_header
from .safetensors_header import SafetensorsEntry, read_safetensors_header

WEIGHTS_NAME = "model.safetensors"
MAX_INTERFACE_BYTES = 2 * 2**30
"""The limit for all inputs and outputs of a graph; those of pi0.5 at full size have 80 MiB."""
_FLOW_INPUTS, _FLOW_OUTPUTS = ("x_t", "t"), ("x_next", "t_next")


def check_bundle_graphs(directory: Path, manifest: Manifest) -> None:
    """Checks every graph file that the manifest names.

    Raises:
        BundleError: a graph contradicts the manifest, another graph or the weights.
    """
    pairs = [manifest.graphs, *manifest.prompt_buckets.values()]
    for graphs in pairs:
        _check_interfaces(graphs)
    weights = read_safetensors_header(directory / WEIGHTS_NAME, WEIGHTS_NAME)
    check_graph_files(directory, [graph for graphs in pairs for graph in graphs.values()], weights)


def check_graph_files(
    directory: Path, graphs: Sequence[GraphSignature], weights: Mapping[str, SafetensorsEntry]
) -> None:
    """Checks each graph file against its signature and against the weights it refers to."""
    ranges = {(tensor.begin, tensor.end): tensor for tensor in weights.values()}
    for graph in graphs:
        if "/" in graph.file:  # engines look for the weights beside the graph
            fail(f"manifest.json: {graph.file}", "a graph beside the weights", "one in a folder")
        header = read_graph_header(directory / graph.file, graph.file)
        _check_side(graph.file, "inputs", graph.inputs, header.inputs)
        _check_side(graph.file, "outputs", graph.outputs, header.outputs)
        for tensor in header.external:
            _check_external(f"{graph.file}: constant {show(tensor.name)}", tensor, ranges)


def _check_interfaces(graphs: Mapping[str, GraphSignature]) -> None:
    """Refuses graphs whose buffers would be absurdly large, or that do not fit together."""
    prefix, denoise = graphs["prefix"], graphs["denoise"]
    for graph in (prefix, denoise):
        num_bytes = sum(map(_num_bytes, (*graph.inputs, *graph.outputs)))
        if num_bytes > MAX_INTERFACE_BYTES:
            expected = f"inputs and outputs of at most {MAX_INTERFACE_BYTES} bytes together"
            fail(f"manifest.json: {graph.file}", expected, num_bytes)
    given = {tensor.name: tensor for tensor in prefix.outputs}
    for tensor in denoise.inputs:
        before = given.get(tensor.name, tensor)
        if before != tensor:
            raise BundleError(
                f"manifest.json: {denoise.file}: input {show(tensor.name)}: expected "
                f"{_layout(before)}, which {prefix.file} gives, got {_layout(tensor)}. {AGAIN}"
            )
    flow = {tensor.name: tensor for tensor in denoise.inputs}
    outputs = {tensor.name: tensor for tensor in denoise.outputs}
    for source, result in zip(_FLOW_INPUTS, _FLOW_OUTPUTS, strict=True):
        if result not in outputs:
            raise BundleError(f"manifest.json: {denoise.file}: no output {result!r}. {AGAIN}")
        if _layout(outputs[result]) != _layout(flow[source]):
            raise BundleError(
                f"manifest.json: {denoise.file}: output {result}: expected "
                f"{_layout(flow[source])} as {source}, got {_layout(outputs[result])}. {AGAIN}"
            )


def _check_side(
    file: str,
    side: str,
    manifest: Sequence[TensorSignature],
    graph: Sequence[TensorSignature],
) -> None:
    """Refuses a graph file whose inputs or outputs differ from the manifest."""
    names = [tensor.name for tensor in manifest]
    found = [tensor.name for tensor in graph]
    if names != found:
        strange = next((name for name in found if name not in names), None)
        raise BundleError(
            f"{file}: {side}: expected {show(names)} as in the manifest, got "
            f"{show(found if strange is None else strange)}. {DAMAGED}"
        )
    for expected, got in zip(manifest, graph, strict=True):
        if expected != got:
            raise BundleError(
                f"{file}: {side}: {show(got.name)}: expected {_layout(expected)} as in the "
                f"manifest, got {_layout(got)}. {DAMAGED}"
            )


def _check_external(
    where: str, tensor: ExternalTensor, ranges: Mapping[tuple[int, int], SafetensorsEntry]
) -> None:
    """Refuses weights that are not exactly one tensor of the bundle's weight file."""
    if tensor.location != WEIGHTS_NAME:
        raise BundleError(
            f"{where}: expected its values in {WEIGHTS_NAME}, got {show(tensor.location)}. Do not "
            f"use this bundle unless you trust its source."
        )
    num_bytes = math.prod(tensor.shape) * ITEM_BYTES[tensor.dtype]
    if num_bytes != tensor.length:
        raise BundleError(
            f"{where}: expected {num_bytes} bytes for {tensor.dtype} {list(tensor.shape)}, got "
            f"{tensor.length}. {DAMAGED}"
        )
    end = tensor.offset + tensor.length
    file_end = max((stored_end for _, stored_end in ranges), default=0)
    if end > file_end:
        raise BundleError(
            f"{where}: expected values within the {file_end} bytes of {WEIGHTS_NAME}, got an end "
            f"at byte {end}. {DAMAGED}"
        )
    stored = ranges.get((tensor.offset, end))
    if stored is None:
        raise BundleError(
            f"{where}: expected a tensor of {WEIGHTS_NAME}, got bytes {tensor.offset} to {end}. "
            f"{DAMAGED}"
        )
    if stored.dtype != tensor.dtype:
        raise BundleError(
            f"{where}: expected {stored.dtype} as in {WEIGHTS_NAME}, got {tensor.dtype}. {DAMAGED}"
        )


def _num_bytes(tensor: TensorSignature) -> int:
    return math.prod(tensor.shape) * ITEM_BYTES[tensor.dtype]


def _layout(tensor: TensorSignature) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"
