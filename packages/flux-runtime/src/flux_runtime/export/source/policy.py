"""Reads a checkpoint for the export: its network, statistics and inference config."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from flux_core.agreement import FACTS_KEY
from flux_core.bundle import Bundle
from flux_core.config import (
    bind,
    registrations,
    unbind,
    with_current_types,
    without_own_training_transforms,
)
from flux_core.deployment import (
    InferenceRunner,
    InferenceSections,
    inference_sections,
    section_of_robot,
)
from flux_core.errors import ConfigError, ExportError, UsageError
from flux_core.models import FlowPolicy, network_facts
from flux_core.models.weights import (
    inference_weights,
    load_checkpoint,
    load_weights,
)
from flux_core.norm_stats import NormStats, stats_from_json
from flux_core.tokenizers import PretrainedTokenizer
from flux_core.transforms import Tokenization

from .embodiment import keep_own_embodiment
from .own_classes import check_own_training_transforms
from .section import SectionEdits, agreed, provenance_of, section_of
from .weights_alone import refuse_weights_alone

WEIGHTS = "model.safetensors"
TABLE = ".table"
"""The names of tables that were precomputed for a bundle's graphs end with this."""


@dataclass(frozen=True, kw_only=True)
class TrainedPolicy:
    """The parts of a checkpoint that a bundle contains.

    `provenance` holds where it comes from, the facts about its data and what was changed since.
    """

    model: FlowPolicy
    inference: InferenceRunner
    config: Mapping[str, Any]
    norm_stats: Mapping[str, NormStats]
    provenance: Mapping[str, Any]
    training_log: Path | None
    data_summary: Mapping[str, Any] = field(default_factory=dict[str, Any])


def load_policy(
    checkpoint: Path,
    robot: str | None = None,
    accept_versions: Collection[str] = (),
    edits: SectionEdits | None = None,
    own_classes: Path | None = None,
) -> TrainedPolicy:
    """Reads `checkpoint_epoch_N.pt`, or the directory of a bundle, for one robot.

    Args:
        checkpoint: the file, or the directory of a bundle in fp32.
        robot: its name, if the checkpoint has several.
        accept_versions: distributions whose installed version may differ from a bundle's.
        edits: what changes in the robot's section, before it is compared with training.
        own_classes: where a checkpoint's transforms that only training runs may be imported from.

    Raises:
        ExportError: the checkpoint does not have that robot; or it has several and `robot` is None;
            or its config names a class that is not allowed in a bundle, which is not imported; or
            the robot's section contradicts the training section.
        CheckpointError: it holds only an adapter, or a weight that is not finite.
    """
    refuse_weights_alone(checkpoint)
    edits = edits or SectionEdits()
    if checkpoint.is_dir():
        policy = load_bundled_policy(checkpoint, accept_versions, edits)
        if robot not in (None, policy.inference.spec.name):
            raise ExportError(
                f"{checkpoint}: expected a bundle of robot {robot}, as named by --robot, got one "
                f"of {policy.inference.spec.name}. Export the checkpoint for this robot instead."
            )
        return policy
    # Memory-mapped, because a full-size checkpoint with its optimiser may not fit in memory.
    state = load_checkpoint(checkpoint, mmap=True)
    config = with_current_types(state["config"])
    if edits.config is not None:
        config = {**config, "inference": section_of(edits.config)}
    training_only: dict[str, str] = {}
    if own_classes is not None:
        training_only = check_own_training_transforms(config, checkpoint, own_classes)
        config = without_own_training_transforms(config)
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
    inference = section_of_robot(runners, robot or next(iter(runners)))
    if inference is None:
        raise ExportError(
            f"{checkpoint}: --robot: expected one of {', '.join(runners)}, got {robot!r}."
        )
    network = bind(FlowPolicy.Config, config["model"], "model")
    facts = state.get("data_facts", {})
    # Before the weights are read, which takes long.
    inference = agreed(inference, config, network_facts(network), facts, edits, str(checkpoint))
    with torch.device("meta"):
        model = network.build().eval()
    weights = {name: value.float() for name, value in inference_weights(state).items()}
    load_weights(model, weights, str(checkpoint), assign=True)
    config = keep_own_embodiment(model, inference, config, str(checkpoint))
    return TrainedPolicy(
        model=model,
        inference=with_tokenizer_beside(inference, checkpoint.with_name("tokenizer")),
        # The bundle is for this robot only.
        config={**config, "inference": unbind(inference)},
        norm_stats=stats_from_json(state["norm_stats"]),
        data_summary=_summary_for(inference, state),
        provenance={
            "checkpoint": checkpoint.name,
            "global_step": state["global_step"],
            "epoch": state["epoch"],
            **provenance_of(inference, facts, edits),
            **({"training_only": training_only} if training_only else {}),
        },
        training_log=log if (log := checkpoint.with_name("metrics.jsonl")).is_file() else None,
    )


def _summary_for(inference: InferenceRunner, state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the summary of the robot's training data, with the robot's names of the cameras."""
    summaries: Mapping[str, Any] = state.get("data_summary") or {}  # older checkpoints have none
    if not summaries:
        return {}
    summary = dict(summaries.get(inference.statistics_group(state["norm_stats"]), {}))
    if "cameras" not in summary:
        return summary
    # The network's cameras have one order in training and on the robot, which may lack some.
    names = inference.dataset.trained_cameras or inference.dataset.img_keys
    cameras = dict(zip(names, summary["cameras"].values(), strict=False))
    kept = {name: cameras[name] for name in inference.dataset.img_keys if name in cameras}
    return {**summary, "cameras": kept}


def load_bundled_policy(
    directory: Path, accept_versions: Collection[str] = (), edits: SectionEdits | None = None
) -> TrainedPolicy:
    """Reads a bundle in fp32, to export it again with other options.

    Raises:
        BundleError: the bundle is damaged.
        ExportError: the bundle has another precision, in which its weights are rounded; or its
            robot's section contradicts its training section.
    """
    edits = edits or SectionEdits()
    bundle = Bundle.open(directory, accept_versions=accept_versions)
    manifest, config = bundle.manifest, with_current_types(bundle.config)
    if manifest.precision != "fp32":
        raise ExportError(
            f"{directory}: expected a checkpoint or a bundle in fp32, got one in "
            f"{manifest.precision}, whose weights are rounded. Export the checkpoint instead."
        )
    network = bind(FlowPolicy.Config, config["model"], "model")
    inference = _bundled_section(config, manifest.robot, edits)
    facts, where = manifest.provenance.get(FACTS_KEY, {}), str(directory)
    inference = agreed(
        inference, config, network_facts(network), facts, edits, where, is_bundle=True
    )
    with torch.device("meta"):
        model = network.build().eval()
    stored = load_file(bundle.path(WEIGHTS))
    weights = {name: value for name, value in stored.items() if not name.endswith(TABLE)}
    load_weights(model, weights, str(directory), assign=True)
    log = directory / "metrics.jsonl"
    kept = {k: v for k, v in manifest.provenance.items() if k != "versions"}
    return TrainedPolicy(
        model=model,
        inference=with_tokenizer_beside(inference, directory / "tokenizer"),
        config={**config, "inference": unbind(inference)},
        norm_stats=stats_from_json(bundle.norm_stats),
        data_summary=manifest.data_summary,
        provenance={**kept, **provenance_of(inference, {}, edits)},
        training_log=log if log.is_file() else None,
    )


def _bundled_section(config: Mapping[str, Any], robot: str, edits: SectionEdits) -> InferenceRunner:
    """Returns the robot's section of a bundle, or the one of the config that replaces it.

    Raises:
        ExportError: that config names a class that is not allowed in a bundle.
        UsageError: that config does not have the bundle's robot.
    """
    if edits.config is None:
        return bind(InferenceRunner, config["inference"], "inference")
    section = section_of(edits.config)
    try:
        registrations({"inference": section})
    except ConfigError as error:
        raise ExportError(f"--config: {edits.config}: {error}") from error
    runners = inference_sections(bind(InferenceSections, section, "inference"))
    found = section_of_robot(runners, robot)
    if found is None:
        raise UsageError(
            f"--config: {edits.config}: expected the robot of the bundle, {robot}, got "
            f"{', '.join(runners)}"
        )
    return found


def with_tokenizer_beside(inference: InferenceRunner, directory: Path) -> InferenceRunner:
    """Points a tokenizer without a path at the one that training wrote to `directory`."""
    prompts = inference.pipeline.maybe(Tokenization)
    if prompts is None or prompts.tokenizer != PretrainedTokenizer():
        return inference
    tokenizer = PretrainedTokenizer(model_path=str(directory))
    return inference.with_pipeline(inference.pipeline.replace(Tokenization, tokenizer=tokenizer))
