"""The robot's section of a bundle: the checkpoint's, what changes in it, and whether it agrees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flux_core.agreement import (
    FACTS_KEY,
    Changes,
    DataFacts,
    Network,
    Trained,
    check_agreement,
    check_data_agreement,
    datasets_of,
    warn_of_untrained_tasks,
    with_trained_cameras,
)
from flux_core.config import load_config
from flux_core.deployment import InferenceRunner
from flux_core.errors import ConfigError, ExportError, UsageError

CHANGES = "changed_after_training"
"""The key of a manifest's provenance that holds what changed."""


@dataclass(frozen=True, kw_only=True)
class SectionEdits:
    """What changes in the robot's section of a checkpoint.

    Attributes:
        config: a config whose robot section replaces the checkpoint's.
        changes: the options for what may change after training.
        cameras: the robot's cameras; None for all of the section's.
    """

    config: Path | None = None
    changes: Changes = field(default_factory=Changes)
    cameras: tuple[str, ...] | None = None


def agreed(
    inference: InferenceRunner,
    config: Mapping[str, Any],
    network: Network,
    facts: Mapping[str, Any],
    edits: SectionEdits,
    where: str,
    *,
    is_bundle: bool = False,
) -> InferenceRunner:
    """Returns the robot's section with the edits, if it agrees with training.

    Args:
        inference: the section of the checkpoint or bundle.
        config: its config, whose types are known to be registered.
        network: what its network takes and gives.
        facts: the facts about its data, by group; of a bundle, those of its robot. Empty in older
            files.
        edits: what changes.
        where: the checkpoint or bundle, for messages.
        is_bundle: whether it is a bundle.

    Raises:
        ExportError: the section contradicts the training section.
        UsageError: an edit is wrong.
    """
    inference = edits.changes.apply(inference)
    try:
        groups = {} if is_bundle else facts
        trained = Trained(
            network=network,
            groups=datasets_of(config, is_bundle=is_bundle),
            facts={
                str(name): DataFacts.from_data(data, f"data_facts.{name}")
                for name, data in groups.items()
            },
            robot_facts=DataFacts.from_data(facts, FACTS_KEY) if is_bundle and facts else None,
        )
        if edits.cameras is not None:
            inference = with_cameras(_told_cameras(inference, trained), edits.cameras)
        check_agreement(inference, trained, is_bundle=is_bundle)
        check_data_agreement(inference, trained)
    except ConfigError as error:
        remedy = "Correct the robot's section in a config, and name it with --config"
        if edits.changes:
            remedy = "Correct the options, or the robot's section in a config that --config names"
        raise ExportError(f"{where}: {error}. {remedy}") from error
    warn_of_untrained_tasks(inference, trained)
    return inference


def with_cameras(inference: InferenceRunner, cameras: tuple[str, ...]) -> InferenceRunner:
    """Keeps only `cameras`, in the order of training.

    Raises:
        UsageError: the policy does not know a camera, or `cameras` is empty.
    """
    dataset = inference.dataset
    known = dataset.img_keys
    unknown = [name for name in cameras if name not in known]
    if unknown or not cameras:
        raise UsageError(
            f"--cameras: expected some of {', '.join(known)}, got {', '.join(cameras) or 'none'}"
        )
    kept = tuple(name for name in known if name in cameras)
    everything = dataset.trained_cameras or (known if kept != known else ())
    dataset = replace(
        dataset,
        img_keys=kept,
        trained_cameras=everything,
        transforms=inference.pipeline.with_cameras(cameras, known).transforms,
    )
    return replace(inference, dataset=dataset)


def provenance_of(
    inference: InferenceRunner, facts: Mapping[str, Any], edits: SectionEdits
) -> dict[str, Any]:
    """Returns what a bundle's provenance says about the data and about changes."""
    found: dict[str, Any] = {}
    if facts:
        found[FACTS_KEY] = facts[inference.statistics_group(facts)]
    changed = edits.changes.as_data()
    if edits.config is not None:
        changed["config"] = edits.config.name
    if changed:
        found[CHANGES] = changed
    return found


def section_of(path: Path) -> Any:
    """Returns the robots' section of a config as plain data.

    Raises:
        ConfigError: the file cannot be read as a config.
        UsageError: it has no such section.
    """
    section = load_config(path).get("inference")
    if not section:
        raise UsageError(f"--config: {path}: expected an `inference` section, got none")
    return section


def _told_cameras(inference: InferenceRunner, trained: Trained) -> InferenceRunner:
    """Records training's cameras in the section of a robot that lacks some."""
    if not trained.groups:
        return inference
    first, *_ = trained.groups[inference.statistics_group(trained.groups)]
    return replace(inference, dataset=with_trained_cameras(inference.dataset, first))
