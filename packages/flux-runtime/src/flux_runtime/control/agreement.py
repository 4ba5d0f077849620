"""A bundle's robot section beside its training section, and what changes for one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from flux_core.agreement import (
    FACTS_KEY,
    Changes,
    DataFacts,
    Network,
    Trained,
    check_agreement,
    check_data_agreement,
    datasets_of,
    warn_of_new_tasks,
)
from flux_core.bundle import DescribedBundle
from flux_core.config import bind, unbind
from flux_core.deployment import InferenceRunner
from flux_core.errors import BundleError, ConfigError, UsageError

from ..chunking import trained_delays

AnyBundle = TypeVar("AnyBundle", bound=DescribedBundle)
"""A bundle's dataclass, whose manifest and config may be replaced."""


def agreed_bundle(bundle: AnyBundle, changes: Changes, task: str | None) -> AnyBundle:
    """Returns the bundle with the changes of one run, if it agrees with its training.

    Args:
        bundle: an opened bundle.
        changes: the options for what may change after training.
        task: the task of the run, if it is not the bundle's.

    Raises:
        BundleError: robot and training contradict each other.
        UsageError: a change is wrong.
    """
    section = bundle.config.get("inference")
    if not isinstance(section, Mapping) or "dataset" not in section:  # it may name a robot only
        if changes:
            raise UsageError(
                f"{bundle.where}: expected config.json with a whole `inference` section, got "
                "one that cannot be changed. Leave the options out"
            )
        return bundle
    try:
        inference: InferenceRunner = bind(InferenceRunner, section, "inference")
        trained = _trained(bundle)
        check_agreement(inference, trained, is_bundle=True)
        check_data_agreement(inference, trained)
    except ConfigError as error:
        raise BundleError(
            f"{bundle.where}: config.json: {error}. Correct it in the config of the training, "
            "and export the checkpoint again with --config"
        ) from error
    if task is not None:
        facts = trained.robot_facts
        tasks = tuple(bundle.manifest.tasks.values()) if facts is None else facts.tasks
        warn_of_new_tasks([task], tasks, "--task")
    changed = _changed(inference, changes, trained)
    if not changes:
        return bundle
    horizon = changed.steps_executed(bundle.manifest.action_horizon)
    described: Any = bundle  # a dataclass, which a protocol cannot say
    return replace(
        described,
        manifest=replace(bundle.manifest, execution_horizon=horizon),
        config={**bundle.config, "inference": unbind(changed)},
    )


def _changed(inference: InferenceRunner, changes: Changes, trained: Trained) -> InferenceRunner:
    changed = changes.apply(inference)
    if changes:
        try:
            check_agreement(changed, trained, is_bundle=True)
        except ConfigError as error:
            raise UsageError(f"the options do not fit the bundle: {error}") from error
    return changed


def _trained(bundle: DescribedBundle) -> Trained:
    manifest = bundle.manifest
    facts, where = manifest.provenance.get(FACTS_KEY), f"provenance.{FACTS_KEY}"
    return Trained(
        network=Network(
            action_dim=manifest.action_dim,
            action_horizon=manifest.action_horizon,
            reads_state=manifest.reads_state,
            rtc_delays=trained_delays(bundle),
        ),
        groups=datasets_of(bundle.config, is_bundle=True),
        robot_facts=None if facts is None else DataFacts.from_data(facts, where),
    )
