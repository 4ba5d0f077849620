"""Second step of an export: traces the graphs with static shapes, over the weights on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from flux_core.bundle import GraphSignature, TensorSignature, prompt_columns

from .costs import graph_costs
from .export_progress import ExportSteps
from .golden_inputs import PREFIX_INPUTS, Arrays
from .graphs import cache_names
from .onnx_file import export_graph, signature
from .options import ExportOptions
from .prepare import PreparedNetwork
from .source.policy import WEIGHTS


@dataclass(frozen=True, kw_only=True)
class TracedGraphs:
    """The written graphs.

    Attributes:
        graphs: 'prefix' and 'denoise', for prompts of any length.
        prompt_buckets: maximum number of prompt tokens -> the graphs for such prompts.
        costs: stage ('prefix' or 'step') -> its operations and bytes.
    """

    graphs: Mapping[str, GraphSignature]
    prompt_buckets: Mapping[int, Mapping[str, GraphSignature]]
    costs: Mapping[str, Mapping[str, int]]


def trace(
    prepared: PreparedNetwork, directory: Path, options: ExportOptions, steps: ExportSteps
) -> TracedGraphs:
    """Writes one pair of graphs for all prompts, and one pair per prompt bucket."""
    files = {name: f"{name}.onnx" for name in ("prefix", "denoise")}
    whole = _trace_pair(prepared, prepared.inputs, directory, files, steps, options)
    buckets = {}
    for tokens in prepared.prompt_buckets:
        shorter = {name: f"{name}_{tokens}.onnx" for name in files}
        inputs = _shortened(prepared.inputs, tokens)
        pair = _trace_pair(prepared, inputs, directory, shorter, steps, options)
        buckets[tokens] = _signatures(pair, shorter)
    return TracedGraphs(
        graphs=_signatures(whole, files),
        prompt_buckets=buckets,
        costs={
            "prefix": graph_costs(whole["prefix"]),
            "step": graph_costs(whole["denoise"]),
        },
    )


def _trace_pair(
    prepared: PreparedNetwork,
    inputs: Mapping[str, Any],
    directory: Path,
    files: Mapping[str, str],
    steps: ExportSteps,
    options: ExportOptions,
) -> dict[str, onnx.ModelProto]:
    """Writes both graphs for the shapes of `inputs`."""
    names = cache_names(prepared.denoise.model.num_cached_layers)
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in inputs.items()}

    def write(name: str, *call: Any) -> onnx.ModelProto:
        steps.begin(f"tracing {files[name]}")
        weights = directory / WEIGHTS
        graph = export_graph(*call, opset=options.graph_opset, weights_file=weights)
        (directory / files[name]).write_bytes(graph.SerializeToString())
        return graph

    images = tuple(tensors[name] for name in PREFIX_INPUTS)
    prefix = write("prefix", prepared.prefix, images, PREFIX_INPUTS, names)
    cache = [
        torch.zeros(shape, dtype=getattr(torch, dtype))
        for _, dtype, shape in signature(prefix.graph.output)
    ]
    state, noise = tensors.get("state"), tensors["noise"]
    state_name = [] if state is None else ["state"]
    step = (state, noise, torch.ones(noise.shape[:2]), *cache)
    step_names = [*state_name, "x_t", "t", *names]
    denoise = write("denoise", prepared.denoise, step, step_names, ["x_next", "t_next"])
    return {"prefix": prefix, "denoise": denoise}


def _shortened(inputs: Arrays, tokens: int) -> Arrays:
    """Returns the inputs for prompts of at most `tokens` tokens, cut where the padding is."""
    columns = prompt_columns(inputs["lang_masks"], tokens)
    assert columns is not None, "shorter buckets than the prompt are refused"
    return {
        name: value[:, columns] if name in ("lang_tokens", "lang_masks") else value
        for name, value in inputs.items()
    }


def _signatures(
    graphs: Mapping[str, onnx.ModelProto], files: Mapping[str, str]
) -> dict[str, GraphSignature]:
    return {
        name: GraphSignature(
            file=files[name],
            inputs=_tensors(graph.graph.input),
            outputs=_tensors(graph.graph.output),
        )
        for name, graph in graphs.items()
    }


def _tensors(values: Any) -> tuple[TensorSignature, ...]:
    return tuple(TensorSignature(name=n, dtype=d, shape=s) for n, d, s in signature(values))
