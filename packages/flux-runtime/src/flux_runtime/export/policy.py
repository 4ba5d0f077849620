"""Reads a checkpoint for the export: its network, statistics and inference config."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from flux_core.bundle import Bundle
from flux_core.config import bind, registrations, unbind, with_current_types
from flux_core.deployment import InferenceRunner, InferenceSections, inference_sections
from flux_core.errors import ConfigError, ExportError
from flux_core.models import PI0FlowMatching
from flux_core.models.weights import (
    inference_weights,
    load_checkpoint,
    load_weights,
    refuse_adapter,
)
from flux_core.norm_stats import NormStats, stats_from_json
from flux_core.tokenizers import PretrainedTokenizer
from flux_core.transforms import Tokenization

WEIGHTS = "model.safetensors"
TABLE = ".table"
"""The names of tables that were precomputed for a bundle's graphs end with this."""


@dataclass(frozen=True, kw_only=True)
class TrainedPolicy:
    """The parts of a checkpoint that a bundle contains."""

    model: PI0FlowMatching
    inference: InferenceRunner
    config: Mapping[str, Any]
    norm_stats: Mapping[str, NormStats]
    provenance: Mapping[str, Any]
    training_log: Path | None


def load_policy(
    checkpoint: Path, robot: str | None = None, accept_versions: Collection[str] = ()
) -> TrainedPolicy:
    """Reads `checkpoint_epoch_N.pt`, or the directory of a bundle, for one robot.

    Raises:
        ExportError: the checkpoint does not have that robot; or it has several and `robot` is None;
            or its config names a class that is not allowed in a bundle, which is not imported.
        CheckpointError: it holds only an adapter, or a weight that is not finite.
    """
    refuse_weights_alone(checkpoint)
    if checkpoint.is_dir():
        policy = load_bundled_policy(checkpoint, accept_versions)
        if robot not in (None, policy.inference.spec.name):
            raise ExportError(
                f"{checkpoint}: expected a bundle of robot {robot}, as named by --robot, got one "
                f"of {policy.inference.spec.name}. Export the checkpoint for this robot instead."
            )
        return policy
    # Memory-mapped, because a full-size checkpoint with its optimiser may not fit in memory.
    state = load_checkpoint(checkpoint, mmap=True)
    config = with_current_types(state["config"])
    try:
        registrations(config)
    except ConfigError as error:
        raise ExportError(f"{checkpoint}: config: {error}") from error
    if not config.get("inference"):
        raise ExportError(
            f"{checkpoint}: config: expected an `inference` section, which names the robot, the "
            "cameras and the tasks, got none. Add one and train again."
        )
    runners = inference_sections(bind(InferenceSections, config["inference"], "inference"))
    if robot is None and len(runners) > 1:
        raise ExportError(
            f"{checkpoint}: expected --robot with one of {', '.join(runners)}, got none."
        )
    inference = runners.get(robot or next(iter(runners)))
    if inference is None:
        raise ExportError(
            f"{checkpoint}: --robot: expected one of {', '.join(runners)}, got {robot!r}."
        )
    with torch.device("meta"):
        model = bind(PI0FlowMatching.Config, config["model"], "model").build().eval()
    weights = {name: value.float() for name, value in inference_weights(state).items()}
    load_weights(model, weights, str(checkpoint), assign=True)
    return TrainedPolicy(
        model=model,
        inference=with_tokenizer_beside(inference, checkpoint.with_name("tokenizer")),
        # The bundle is for this robot only.
        config={**config, "inference": unbind(inference)},
        norm_stats=stats_from_json(state["norm_stats"]),
        provenance={
            "checkpoint": checkpoint.name,
            "global_step": state["global_step"],
            "epoch": state["epoch"],
        },
        training_log=log if (log := checkpoint.with_name("metrics.jsonl")).is_file() else None,
    )


def refuse_weights_alone(path: Path) -> None:
    """Refuses weights without the config and the statistics that a bundle needs.

    Raises:
        CheckpointError: it holds only an adapter.
        ExportError: it holds only weights.
    """
    names = ("model.safetensors", "model.safetensors.index.json")
    if path.is_dir():
        refuse_adapter(path)
        is_bundle = any((path / name).exists() for name in ("manifest.json", "norm_stats.json"))
        is_alone = not is_bundle and any((path / name).exists() for name in names)
    else:
        is_alone = ".safetensors" in path.suffixes and path.is_file()
    if not is_alone:
        return
    folder = path if path.is_dir() else path.parent
    found = [path.with_suffix(".pt")] if path.is_file() else []
    found += sorted(folder.glob("checkpoint_*.pt"), key=lambda file: -file.stat().st_mtime_ns)
    beside = next((file for file in found if file.is_file()), None)
    remedy = f"Export {beside} instead" if beside else "Export the checkpoint_*.pt of the training"
    raise ExportError(
        f"{path}: expected checkpoint_epoch_N.pt, which also holds the config and the statistics, "
        f"got weights alone. {remedy}"
    )


def load_bundled_policy(directory: Path, accept_versions: Collection[str] = ()) -> TrainedPolicy:
    """Reads a bundle in fp32, to export it again with other options.

    Raises:
        BundleError: the bundle is damaged.
        ExportError: the bundle has another precision, in which its weights are rounded.
    """
    bundle = Bundle.open(directory, accept_versions=accept_versions)
    manifest, config = bundle.manifest, with_current_types(bundle.config)
    if manifest.precision != "fp32":
        raise ExportError(
            f"{directory}: expected a checkpoint or a bundle in fp32, got one in "
            f"{manifest.precision}, whose weights are rounded. Export the checkpoint instead."
        )
    with torch.device("meta"):
        model = bind(PI0FlowMatching.Config, config["model"], "model").build().eval()
    stored = load_file(bundle.path(WEIGHTS))
    weights = {name: value for name, value in stored.items() if not name.endswith(TABLE)}
    load_weights(model, weights, str(directory), assign=True)
    log = directory / "metrics.jsonl"
    inference = bind(InferenceRunner, config["inference"], "inference")
    return TrainedPolicy(
        model=model,
        inference=with_tokenizer_beside(inference, directory / "tokenizer"),
        config=config,
        norm_stats=stats_from_json(bundle.norm_stats),
        provenance={k: v for k, v in manifest.provenance.items() if k != "versions"},
        training_log=log if log.is_file() else None,
    )


def with_tokenizer_beside(inference: InferenceRunner, directory: Path) -> InferenceRunner:
    """Points a tokenizer without a path at the one that training wrote to `directory`."""
    prompts = inference.pipeline.maybe(Tokenization)
    if prompts is None or prompts.tokenizer != PretrainedTokenizer():
        return inference
    tokenizer = PretrainedTokenizer(model_path=str(directory))
    return inference.with_pipeline(inference.pipeline.replace(Tokenization, tokenizer=tokenizer))
