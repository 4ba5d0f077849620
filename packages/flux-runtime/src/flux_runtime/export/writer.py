"""Writes a bundle: weights once, two graphs, statistics, tokenizer, golden, manifest."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file as save_torch
from torch import Tensor, nn

from flux_core import __version__
from flux_core.bundle import GraphSignature, Manifest, TensorSignature, write_manifest
from flux_core.errors import ExportError, UsageError
from flux_core.models import PI0FlowMatching
from flux_core.norm_stats import save_stats
from flux_core.policy_io import PolicyIO
from flux_core.tokenizers import save_tokenizer
from flux_core.types import Observation

from .calibration import read_observations, recorded_inputs
from .costs import graph_costs
from .export_progress import Report
from .golden_inputs import (
    GOLDEN_SEED,
    PREFIX_INPUTS,
    Arrays,
    encoded,
    golden_inputs,
    pytorch_outputs,
)
from .graphs import (
    DenoiseGraph,
    PrefixGraph,
    cache_names,
    precompute_angles,
    precompute_times,
)
from .onnx_file import export_graph, signature
from .options import ExportOptions, apply_options
from .policy import WEIGHTS, TrainedPolicy
from .precision import compute_dtype, set_precision
from .verify import Verification, tolerances, verify_bundle

Graphs = dict[str, onnx.ModelProto]


def export_bundle(
    policy: TrainedPolicy,
    out: Path,
    report: Report,
    options: ExportOptions | None = None,
) -> Verification:
    """Writes and verifies a bundle; `out` appears only once the verification has passed.

    Args:
        policy: the checkpoint. Its network is used up: memory for one is enough.
        out: the directory to create, or an older bundle to replace.
        report: is told what is being done.
        options: precision and the like.
    """
    if out.exists() and not out.is_dir():
        raise ExportError(f"{out}: expected a folder to write, got a file. Choose another --out")
    if out.exists() and not (out / "manifest.json").is_file() and any(out.iterdir()):
        raise ExportError(f"{out}: exists and is not a bundle. Choose another --out")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        verification = _write_and_verify(policy, partial, report, options or ExportOptions())
    except BaseException:
        # Full size, a broken one is 13 GB that nobody looks at.
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for file in partial.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    shutil.rmtree(out, ignore_errors=True)
    os.replace(partial, out)
    return verification


def _write_and_verify(
    policy: TrainedPolicy, directory: Path, report: Report, options: ExportOptions
) -> Verification:
    samples = options.calibration_samples if options.calibrate else 0
    steps = _Steps(report, total=6 + 2 * len(options.prompt_tokens) + samples)
    policy = apply_options(policy, options)
    manifest, reference, own, costs = _write_files(policy, directory, steps, options)
    # The engine needs the memory for its own copy of the weights.
    release_weights(policy.model)
    write_manifest(directory, manifest)
    steps.begin("replaying the bundle against PyTorch")
    verification = verify_bundle(directory, reference, own)
    settings = {
        "precision": manifest.precision,
        "opset": options.graph_opset,
        "num_inference_steps": manifest.num_inference_steps,
    }
    figures = json.dumps({**settings, **asdict(verification), "costs": costs}, indent=1)
    (directory / "report.json").write_text(figures + "\n")
    write_manifest(directory, manifest)
    return verification


def release_weights(model: nn.Module) -> None:
    """Frees the memory of the weights, whoever else still holds these tensors: what traces a graph
    keeps them in references that end nobody knows when."""
    weights = [*model.parameters(), *model.buffers()]
    model.to("meta")
    for weight in weights:
        weight.data = weight.new_empty(0)


class _Steps:
    def __init__(self, report: Report, total: int) -> None:
        self._report, self._total, self._done = report, total, 0

    def begin(self, what: str) -> None:
        self._report(what, self._done, self._total)
        self._done += 1


def _write_files(
    policy: TrainedPolicy, directory: Path, steps: _Steps, options: ExportOptions
) -> tuple[Manifest, Arrays, Arrays | None, dict[str, dict[str, int]]]:
    """Everything but manifest and report: the manifest, PyTorch's answers in float32 and in the
    bundle's precision, and what the stages cost."""
    model = policy.model
    io = PolicyIO.from_policy(policy.inference, policy.norm_stats)
    observations = _calibration_observations(policy, options)
    # Noise images go beyond the ranges of what a camera sees.
    inputs = golden_inputs(policy, io, observations[0] if observations else None)
    buckets = _checked_buckets(options, inputs)

    steps.begin("asking PyTorch")
    graphs = _modules(model, io, torch.float32)
    reference = pytorch_outputs(*graphs, inputs)
    calibration = _calibrate(policy, io, graphs, observations, steps)
    prefix_tokens = reference["prefix_pad_masks"].shape[1]
    everything = set_up_network(model, options, prefix_tokens, calibration)
    graphs = _modules(model, io, compute_dtype(options.precision))
    own = None if options.precision == "fp32" else pytorch_outputs(*graphs, inputs)
    tolerance = tolerances(reference, own, options.precision)["actions"]

    steps.begin("writing weights, statistics and tokenizer")
    save_torch(everything, directory / WEIGHTS, metadata={"format": "pt"})
    del everything
    save_stats(directory / "norm_stats.json", policy.norm_stats)
    (directory / "config.json").write_text(json.dumps(policy.config, indent=1) + "\n")
    save_tokenizer(io.tokenizer_config, directory / "tokenizer")
    if policy.training_log is not None:
        shutil.copyfile(policy.training_log, directory / "metrics.jsonl")
    golden = {f"input.{name}": value for name, value in inputs.items()}
    golden |= {f"output.{name}": reference[name] for name in ("actions", "x_next_first")}
    save_numpy(
        {k: np.ascontiguousarray(v) for k, v in golden.items()}, directory / "golden.safetensors"
    )

    costs: dict[str, dict[str, int]] = {}
    signatures: dict[int | None, dict[str, GraphSignature]] = {}
    for tokens in (None, *buckets):
        files = {
            name: f"{name}.onnx" if tokens is None else f"{name}_{tokens}.onnx"
            for name in ("prefix", "denoise")
        }
        traced = _trace(*graphs, _shortened(inputs, tokens), directory, files, steps, options)
        if tokens is None:
            stages = {"prefix": traced["prefix"], "step": traced["denoise"]}
            costs = {stage: graph_costs(graph) for stage, graph in stages.items()}
        signatures[tokens] = {
            name: GraphSignature(
                file=files[name],
                inputs=tuple(_signatures(graph.graph.input)),
                outputs=tuple(_signatures(graph.graph.output)),
            )
            for name, graph in traced.items()
        }
    manifest = _manifest(policy, io, signatures.pop(None))
    return (
        replace(
            manifest,
            precision=options.precision,
            tolerance=tolerance,
            prompt_buckets={tokens: signatures[tokens] for tokens in buckets},
        ),
        reference,
        own,
        costs,
    )


def _calibration_observations(
    policy: TrainedPolicy, options: ExportOptions
) -> Sequence[Observation]:
    if options.calibrate is None:
        return ()
    cameras = policy.inference.dataset.img_keys
    return read_observations(options.calibrate, cameras, options.calibration_samples)


def _calibrate(
    policy: TrainedPolicy,
    io: PolicyIO,
    graphs: tuple[PrefixGraph, DenoiseGraph],
    observations: Sequence[Observation],
    steps: _Steps,
) -> dict[str, float]:
    """The largest input of each linear layer, in the prefix and all denoise steps."""
    generator = np.random.default_rng(GOLDEN_SEED)
    with recorded_inputs(policy.model) as largest:
        for number, observation in enumerate(observations, 1):
            steps.begin(f"calibrating: sample {number} of {len(observations)}")
            pytorch_outputs(*graphs, encoded(policy, io, observation, generator))
    return largest


def set_up_network(
    model: PI0FlowMatching,
    options: ExportOptions,
    prefix_tokens: int,
    largest_inputs: Mapping[str, float],
) -> dict[str, Tensor]:
    """Brings a float32 network into the form that is exported, in place.

    Args:
        model: the network.
        options: its precision.
        prefix_tokens: of all cameras and the longest prompt.
        largest_inputs: of its linear layers, from calibration; empty but for fp8.

    Returns:
        Its weights, with those too that tables have taken the place of: whoever reads the file as a
        checkpoint finds all of them.
    """
    before = model.state_dict()
    precompute_times(model, model.config.num_inference_steps)
    suffix_tokens = model.num_suffix_tokens(model.config.n_action_steps)
    precompute_angles(model, prefix_tokens + suffix_tokens)
    replaced = {name: before[name] for name in before.keys() - model.state_dict().keys()}
    del before
    set_precision(model, options.precision, largest_inputs)
    weights = {**replaced, **model.state_dict()}
    return {name: value.contiguous() for name, value in weights.items()}


def _modules(
    model: PI0FlowMatching, io: PolicyIO, dtype: torch.dtype
) -> tuple[PrefixGraph, DenoiseGraph]:
    scale, offset = io.image_affine
    prefix = PrefixGraph(model, torch.from_numpy(scale), torch.from_numpy(offset), dtype)
    return prefix, DenoiseGraph(model, model.config.num_inference_steps, action_dims=len(io.scale))


def _trace(
    prefix: PrefixGraph,
    denoise: DenoiseGraph,
    inputs: Mapping[str, Any],
    directory: Path,
    files: Mapping[str, str],
    steps: _Steps,
    options: ExportOptions,
) -> Graphs:
    """Writes both graphs for inputs of these shapes."""
    names = cache_names(denoise.model.config.llm_backbone.num_hidden_layers)
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in inputs.items()}

    def trace(name: str, *call: Any) -> onnx.ModelProto:
        steps.begin(f"tracing {files[name]}")
        weights = directory / WEIGHTS
        graph = export_graph(*call, opset=options.graph_opset, weights_file=weights)
        (directory / files[name]).write_bytes(graph.SerializeToString())
        return graph

    images = tuple(tensors[name] for name in PREFIX_INPUTS)
    prefix_graph = trace("prefix", prefix, images, PREFIX_INPUTS, names)
    cache = [
        torch.zeros(shape, dtype=getattr(torch, dtype))
        for _, dtype, shape in signature(prefix_graph.graph.output)
    ]
    state, noise = tensors.get("state"), tensors["noise"]
    state_name = [] if state is None else ["state"]
    step = (state, noise, torch.ones(noise.shape[:2]), *cache)
    step_names = [*state_name, "x_t", "t", *names]
    denoise_graph = trace("denoise", denoise, step, step_names, ["x_next", "t_next"])
    return {"prefix": prefix_graph, "denoise": denoise_graph}


def _checked_buckets(options: ExportOptions, inputs: Arrays) -> tuple[int, ...]:
    """The lengths of prompts with graphs of their own, shortest first.

    Raises:
        UsageError: the golden's prompt does not fit one, so that it could not be verified, or the
            graphs for any prompt are no longer.
    """
    least, most = int(inputs["lang_masks"].sum()), inputs["lang_masks"].shape[1]
    for tokens in options.prompt_tokens:
        if not least <= tokens < most:
            raise UsageError(
                f"--prompt-tokens: expected {least} (the prompt of the first task) to {most - 1} "
                f"(max_len of the policy is {most}), got {tokens}"
            )
    return tuple(sorted(set(options.prompt_tokens)))


def _shortened(inputs: Arrays, tokens: int | None) -> Arrays:
    """The inputs for prompts of at most so many tokens."""
    return {
        name: value[:, :tokens] if name in ("lang_tokens", "lang_masks") else value
        for name, value in inputs.items()
    }


def _manifest(
    policy: TrainedPolicy, io: PolicyIO, graphs: Mapping[str, GraphSignature]
) -> Manifest:
    config, inference = policy.model.config, policy.inference
    height, width = config.vision_backbone.image_size
    manifest = Manifest(
        model=policy.model.kind,
        robot=inference.robot,
        robots=(inference.robot,),
        control_hz=inference.spec.control_hz,
        cameras=inference.dataset.img_keys,
        image_height=height,
        image_width=width,
        state_dim=io.state_dim,
        action_dim=config.action_dim,
        action_horizon=config.n_action_steps,
        execution_horizon=inference.steps_executed(config.n_action_steps),
        num_inference_steps=config.num_inference_steps,
        max_prompt_tokens=io.max_prompt_tokens,
        prompt=next(iter(inference.task_descriptions.values())),
        tasks=dict(inference.task_descriptions),
        precision="fp32",
        graphs=graphs,
    )
    versions = {"flux": __version__, "torch": torch.__version__, "onnx": onnx.__version__}
    versions["python"] = platform.python_version()
    return replace(manifest, provenance={**policy.provenance, "versions": versions})


def _signatures(values: Any) -> list[TensorSignature]:
    return [TensorSignature(name=n, dtype=d, shape=s) for n, d, s in signature(values)]
