"""Writes a bundle: weights once, two graphs, statistics, tokenizer, golden, manifest."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file as save_torch

from flux_core import __version__
from flux_core.bundle import GraphSignature, Manifest, TensorSignature, write_manifest
from flux_core.errors import ExportError
from flux_core.norm_stats import save_stats
from flux_core.policy_io import PolicyIO
from flux_core.tokenizers import save_tokenizer

from .golden import Arrays, golden_inputs, reference_outputs
from .graphs import DenoiseGraph, PrefixGraph, TimeEmbeddingTable, cache_names
from .onnx_file import export_graph, share_weights, signature
from .policy import TrainedPolicy
from .verify import TOLERANCE, Verification, verify_bundle

WEIGHTS = "model.safetensors"
IMAGE_INPUTS = ("images", "image_masks", "lang_tokens", "lang_masks")
Report = Callable[[str], None]


def export_bundle(policy: TrainedPolicy, out: Path, report: Report) -> Verification:
    """Writes and verifies a bundle; `out` appears only once the verification has passed.

    Args:
        policy: the checkpoint.
        out: the directory to create, or an older bundle to replace.
        report: is told what is being done.
    """
    if out.exists() and not (out / "manifest.json").is_file() and any(out.iterdir()):
        raise ExportError(f"{out}: exists and is not a bundle. Choose another --out")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    io = PolicyIO.from_policy(policy.inference, policy.norm_stats)
    manifest, reference = _write_files(policy, io, partial, report)
    write_manifest(partial, manifest)
    report("replaying the bundle against PyTorch")
    verification = verify_bundle(partial, reference)
    figures = {
        "tolerance": TOLERANCE,
        "max_abs_error": verification.max_abs_error,
        "cosine": verification.cosine,
        "stages": dict(verification.stages),
    }
    (partial / "report.json").write_text(json.dumps(figures, indent=1) + "\n")
    write_manifest(partial, manifest)
    for file in partial.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    shutil.rmtree(out, ignore_errors=True)
    os.replace(partial, out)
    return verification


def _write_files(
    policy: TrainedPolicy, io: PolicyIO, directory: Path, report: Report
) -> tuple[Manifest, Arrays]:
    model, config = policy.model, policy.model.config
    scale, offset = io.image_affine
    model.time_embedding = TimeEmbeddingTable(model.time_embedding, config.num_steps)
    prefix = PrefixGraph(model, torch.from_numpy(scale), torch.from_numpy(offset))
    denoise = DenoiseGraph(model, config.num_steps, action_dims=len(io.scale))
    inputs = golden_inputs(policy, io)
    reference = reference_outputs(policy, prefix, denoise, inputs)

    report("writing weights, statistics and tokenizer")
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_torch(weights, directory / WEIGHTS, metadata={"format": "pt"})
    save_stats(directory / "norm_stats.json", policy.norm_stats)
    (directory / "config.json").write_text(json.dumps(policy.config, indent=1) + "\n")
    save_tokenizer(io.tokenizer_config, directory / "tokenizer")
    if policy.training_log is not None:
        shutil.copyfile(policy.training_log, directory / "metrics.jsonl")

    report("tracing the prefix")
    names = cache_names(config.llm_backbone.num_hidden_layers)
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in inputs.items()}
    prefix_graph = export_graph(
        prefix, tuple(tensors[name] for name in IMAGE_INPUTS), IMAGE_INPUTS, names
    )
    report("tracing the denoising step")
    denoise_graph = _export_denoise(denoise, tensors, reference, names)
    graphs = {"prefix": prefix_graph, "denoise": denoise_graph}
    for name, graph in graphs.items():
        share_weights(graph, directory / WEIGHTS)
        (directory / f"{name}.onnx").write_bytes(graph.SerializeToString())

    golden = {f"input.{name}": value for name, value in inputs.items()}
    golden |= {f"output.{name}": reference[name] for name in ("actions", "x_next_first")}
    save_numpy(
        {k: np.ascontiguousarray(v) for k, v in golden.items()}, directory / "golden.safetensors"
    )
    return _manifest(policy, io, graphs), reference


def _export_denoise(
    denoise: DenoiseGraph, tensors: dict[str, Any], reference: Arrays, names: list[str]
) -> onnx.ModelProto:
    noise, state = tensors["noise"], tensors.get("state")
    cache = [torch.from_numpy(reference[name]) for name in names]
    inputs = (state, noise, torch.ones(noise.shape[:2]), *cache)
    input_names = ["x_t", "t", *names] if state is None else ["state", "x_t", "t", *names]
    return export_graph(denoise, inputs, input_names, ["x_next", "t_next"])


def _manifest(policy: TrainedPolicy, io: PolicyIO, graphs: dict[str, onnx.ModelProto]) -> Manifest:
    config, inference = policy.model.config, policy.inference
    height, width = config.vision_backbone.image_size
    signatures = {
        name: GraphSignature(
            file=f"{name}.onnx",
            inputs=tuple(_signatures(graph.graph.input)),
            outputs=tuple(_signatures(graph.graph.output)),
        )
        for name, graph in graphs.items()
    }
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
        execution_horizon=inference.execution_horizon(config.n_action_steps),
        num_inference_steps=config.num_steps,
        max_prompt_tokens=io.max_prompt_tokens,
        prompt=next(iter(inference.task_descriptions.values())),
        tasks=dict(inference.task_descriptions),
        precision="fp32",
        graphs=signatures,
    )
    versions = {"flux": __version__, "torch": torch.__version__, "onnx": onnx.__version__}
    versions["python"] = platform.python_version()
    return replace(manifest, provenance={**policy.provenance, "versions": versions})


def _signatures(values: Any) -> list[TensorSignature]:
    return [TensorSignature(name=n, dtype=d, shape=s) for n, d, s in signature(values)]
