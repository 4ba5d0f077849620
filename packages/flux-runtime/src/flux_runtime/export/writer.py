"""Writes a bundle: prepares the network, traces the graphs, saves the rest, and verifies it all."""

from __future__ import annotations

import json
import os
import platform
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from safetensors.numpy import save_file
from torch import nn

from flux_core import __version__
from flux_core.bundle import READS_STATE, Manifest, component_sources, write_manifest
from flux_core.errors import ExportError
from flux_core.models import network_facts
from flux_core.norm_stats import save_stats
from flux_core.tokenizers import save_tokenizer

from .export_progress import ExportSteps, Report
from .options import ExportOptions, apply_options
from .precision.moved_actions import CHECKED_OBSERVATIONS
from .precision.network import Precision
from .prepare import PreparedNetwork, prepare
from .source.policy import TrainedPolicy
from .trace import TracedGraphs, trace
from .verify import Verification, verify_bundle


def export_bundle(
    policy: TrainedPolicy,
    out: Path,
    report: Report,
    options: ExportOptions | None = None,
) -> Verification:
    """Writes and verifies a bundle; `out` appears only once the verification has passed.

    Args:
        policy: the checkpoint. Its network is consumed, so that memory for one network is enough.
        out: the directory to create, or an older bundle to replace.
        report: called with the progress.
        options: the precision and other options.
    """
    if out.exists() and not out.is_dir():
        raise ExportError(f"{out}: expected a directory, got a file. Choose another --out.")
    if out.exists() and not (out / "manifest.json").is_file() and any(out.iterdir()):
        raise ExportError(
            f"{out}: expected a new directory or a bundle, got other files. Choose another --out."
        )
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        verification = _write_and_verify(policy, partial, report, options or ExportOptions())
    except BaseException:
        # An incomplete full-size bundle would waste 13 GB.
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
    samples = 0
    if options.calibrate:
        samples = 3 * min(options.calibration_samples, CHECKED_OBSERVATIONS)
        samples += options.calibration_samples if options.precision == "fp8" else 0
    steps = ExportSteps(report, total=6 + 2 * len(options.prompt_tokens) + samples)
    policy = apply_options(policy, options)
    prepared = prepare(policy, directory, options, steps)
    traced = trace(prepared, directory, options, steps)
    steps.begin("writing statistics, tokenizer and golden")
    manifest = save(policy, prepared, traced, directory, options.precision)
    # The engine needs the memory for its own copy of the weights.
    release_weights(policy.model)
    steps.begin("replaying the bundle against PyTorch")
    verification = replace(
        verify_bundle(directory, prepared.reference, prepared.own), moved=prepared.moved
    )
    settings = {
        "precision": manifest.precision,
        "opset": options.graph_opset,
        "num_inference_steps": manifest.num_inference_steps,
    }
    figures = {**settings, **asdict(verification), "costs": traced.costs}
    (directory / "report.json").write_text(json.dumps(figures, indent=1) + "\n")
    write_manifest(directory, manifest)
    return verification


def save(
    policy: TrainedPolicy,
    prepared: PreparedNetwork,
    traced: TracedGraphs,
    directory: Path,
    precision: Precision,
) -> Manifest:
    """Writes everything but weights and graphs, the manifest last, and returns the manifest."""
    save_stats(directory / "norm_stats.json", policy.norm_stats)
    (directory / "config.json").write_text(json.dumps(policy.config, indent=1) + "\n")
    save_tokenizer(prepared.io.tokenizer_config, directory / "tokenizer")
    if policy.training_log is not None:
        shutil.copyfile(policy.training_log, directory / "metrics.jsonl")
    golden = {f"input.{name}": value for name, value in prepared.inputs.items()}
    for name in ("actions", "x_next_first"):
        golden[f"output.{name}"] = prepared.reference[name]
    contiguous = {name: np.ascontiguousarray(value) for name, value in golden.items()}
    save_file(contiguous, directory / "golden.safetensors")
    manifest = _manifest(policy, prepared, traced, precision)
    write_manifest(directory, manifest)
    return manifest


def release_weights(model: nn.Module) -> None:
    """Frees the memory of the weights even if other references to these tensors exist: the exporter
    may hold some for an unknown time."""
    weights = [*model.parameters(), *model.buffers()]
    model.to("meta")
    for weight in weights:
        weight.data = weight.new_empty(0)


def _manifest(
    policy: TrainedPolicy, prepared: PreparedNetwork, traced: TracedGraphs, precision: Precision
) -> Manifest:
    config, inference, io = policy.model.config, policy.inference, prepared.io
    facts, (height, width) = network_facts(config), config.image_size
    manifest = Manifest(
        model=policy.model.kind,
        robot=inference.spec.name,
        robots=(inference.spec.name,),
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
        precision=precision,
        tolerance=prepared.tolerance,
        graphs=traced.graphs,
        prompt_buckets=traced.prompt_buckets,
        rtc_valid_delays=facts.rtc_delays,
        components=component_sources(policy.config),
        data_summary=policy.data_summary,
        model_options={READS_STATE: facts.reads_state},
    )
    versions = {"flux": __version__, "torch": torch.__version__, "onnx": onnx.__version__}
    versions["python"] = platform.python_version()
    return replace(manifest, provenance={**policy.provenance, "versions": versions})
