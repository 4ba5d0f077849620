"""Checks that a checkpoint fits the run that resumes from it, and reports what has changed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flux_core.config import bind, unbind
from flux_core.errors import CheckpointError, ConfigError
from flux_core.models import FlowPolicy
from flux_core.norm_stats import NormStats, stats_to_json
from flux_core.transforms import Normalization

from ..config.runner import TrainRunner
from ..config.tree import TrainConfig, TrainDataloader

logger = logging.getLogger("flux.train")

NO_WARNING = {
    "train_dataloader": {"per_device_num_workers", "worker_type"},
    "runner": {
        "recipe",
        "max_epochs",
        "max_steps",
        "save_epoch_interval",
        "save_iter_interval",
        "max_checkpoints",
        "sharded_checkpoints",
        "log_interval",
        "metric",
        "num_threads",
    },
}
"""Keys that no training step depends on."""
REPORTED_AS_SETUP = {
    "train_dataloader": {"per_device_batch_size"},
    "runner": {"type", "sharding_strategy", "gradient_accumulation_steps"},
}
"""Keys whose changes show in `Setup`."""
SAMPLES_KEY = "samples_a_step"
"""The key of `Setup.samples_per_step` in checkpoints."""
MAX_SHOWN = 8
"""How many changes a warning lists."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How a run's steps are spread over processes and batches, as its checkpoints record it."""

    runner: str
    world_size: int
    accumulation: int
    samples_per_step: int
    total_steps: int

    def as_data(self) -> dict[str, Any]:
        """For a checkpoint; the inverse of `from_data`."""
        fields = asdict(self).items()
        return {SAMPLES_KEY if name == "samples_per_step" else name: x for name, x in fields}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Setup:
        """As a checkpoint holds it."""
        fields = dict(data)
        return cls(samples_per_step=fields.pop(SAMPLES_KEY), **fields)


def check_resumable(
    path: Path, state: Mapping[str, Any], config: TrainConfig, stats: Mapping[str, NormStats]
) -> None:
    """Refuses a checkpoint with another network, other statistics or no position in the data.

    Raises:
        CheckpointError: the message says which.
    """
    # Binding fills in the defaults of fields newer than the checkpoint.
    trained = unbind(bind(FlowPolicy.Config, state["config"]["model"], "model"))
    network = config.model
    may_differ = network.ignored_on_resume.keys() | network.reported_on_resume.keys()
    before, now = (
        {key: value for key, value in side.items() if key not in may_differ}
        for side in (trained, unbind(network))
    )
    differing = list(_differences("model", before, now))
    if differing:
        raise CheckpointError(
            f"{path}: expected this run's network, got one trained with another config: "
            f"{_listed(differing)} (checkpoint -> config). Use the checkpoint's values, as in the "
            "config.json beside it, or start in another WORK_DIR with "
            f"model.pretrained_name_or_path={path.with_suffix('.safetensors')}"
        )
    if "position" not in state:
        raise CheckpointError(
            f"{path}: expected a position in the data, got a checkpoint of an older flux-train "
            "without one. Start a new run from it with model.pretrained_name_or_path"
        )
    _check_stats(path, state["norm_stats"], stats_to_json(stats))
    _check_norm_types(path, state["config"]["train_dataloader"], config.train_dataloader)


def _check_stats(path: Path, trained: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses other statistics: the weights only work in the units they were trained in."""
    for robot in (name for name in trained if name in now):
        for feature in (name for name in trained[robot] if name in now[robot]):
            found = _first_difference(trained[robot][feature], now[robot][feature])
            if found is not None:
                raise CheckpointError(
                    f"{path}: the statistics of {robot}.{feature} differ from the data's: "
                    f"expected {found}. Resume with the data and the train_dataloader.dataset of "
                    f"its config.json, or start in another WORK_DIR with "
                    f"model.pretrained_name_or_path={path.with_suffix('.safetensors')}"
                )


def _check_norm_types(path: Path, trained: Mapping[str, Any], now: TrainDataloader) -> None:
    """Refuses another normalisation with the same statistics: it makes other units, too."""
    try:
        before: TrainDataloader = bind(TrainDataloader, trained, "train_dataloader")
    except ConfigError:
        return  # its class is gone, and this run has another one, which the warning shows
    groups = before.dataset.groups()
    for place, group, dataset in now.dataset.members():
        ours, theirs = (
            side.pipeline.maybe(Normalization)
            for side in (dataset, groups.get(group, (dataset,))[0])
        )
        if ours is None or theirs is None:
            continue
        for name in ("norm_type", "state_keys", "action_keys"):
            now_is, was = getattr(ours, name), getattr(theirs, name)
            if now_is == was:
                continue
            index = dataset.transforms.index(ours)
            raise CheckpointError(
                f"{path}: train_dataloader.dataset.{place}.transforms.{index}.{name}: expected "
                f"{was!r} as in the checkpoint, got {now_is!r}. Use the checkpoint's, or start in "
                "another WORK_DIR with "
                f"model.pretrained_name_or_path={path.with_suffix('.safetensors')}"
            )


def _first_difference(trained: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    for name in ("mean", "std", "min", "max", "q01", "q99"):
        ours, theirs = np.asarray(now[name]), np.asarray(trained[name])
        if ours.shape != theirs.shape:
            return f"{len(theirs)} dimensions, got {len(ours)}"
        # Transforms round both to float32, so the network cannot tell closer values apart.
        different = ~np.isclose(ours, theirs, rtol=1e-6, atol=1e-9)
        if different.any():
            dim = int(np.argmax(different))
            return f"{name}[{dim}] {theirs[dim]:.6g}, got {ours[dim]:.6g}"
    return None


def warn_of_changes(
    path: Path,
    state: Mapping[str, Any],
    config: TrainConfig,
    setup: Setup,
    *,
    has_average: bool,
) -> None:
    """Logs what differs from the run so far; called by the main process.

    Args:
        path: the checkpoint.
        state: its content.
        config: of the run that resumes from it.
        setup: of the run that resumes from it.
        has_average: whether the checkpoint holds an average of the weights.
    """
    saved = state.get("setup")
    # Older checkpoints hold no setup.
    parts = [] if saved is None else _setup_changes(Setup.from_data(saved), setup, config.runner)
    if parts:
        logger.warning("%s: resumes with a different setup: %s", path, ", ".join(parts))
    starts_average = config.runner.ema_decay > 0 and not has_average
    if starts_average:
        logger.warning(
            "%s: runner.ema_decay is %s but the checkpoint holds no average of the weights; the "
            "average starts from the weights",
            path,
            config.runner.ema_decay,
        )
    changes = list(_model_changes(state["config"], config))
    changes += [
        change
        for section, kind in (("train_dataloader", TrainDataloader), ("runner", TrainRunner))
        for change in _section_changes(section, kind, state["config"], unbind(config))
        if not (starts_average and change.startswith("runner.ema_decay:"))
    ]
    if changes:
        logger.warning("%s: resumes with changed settings: %s", path, _listed(changes))


def _model_changes(old: Mapping[str, Any], config: TrainConfig) -> Iterator[str]:
    """What changes in how the network learns."""
    trained = bind(FlowPolicy.Config, old["model"], "model")
    for name in config.model.reported_on_resume:
        before, now = (unbind(getattr(side, name)) for side in (trained, config.model))
        yield from _differences(f"model.{name}", before, now)


def _listed(changes: Sequence[str]) -> str:
    more = f" and {len(changes) - MAX_SHOWN} more" if len(changes) > MAX_SHOWN else ""
    return f"{', '.join(changes[:MAX_SHOWN])}{more}"


def _setup_changes(old: Setup, new: Setup, runner: TrainRunner) -> list[str]:
    """What will not be bit-identical to an uninterrupted run, and why."""

    def changed(name: str, called: str) -> list[str]:
        before, now = getattr(old, name), getattr(new, name)
        return [] if before == now else [f"{called} {now} instead of {before}"]

    rounding = [
        *changed("world_size", "processes:"),
        *changed("accumulation", "batches per process and step:"),
        *changed("runner", "runner"),
    ]
    batches = changed("samples_per_step", "samples per step:")
    schedule = changed("total_steps", "steps in total:")
    is_by_step = runner.warmup_steps is not None and runner.decay_steps is not None
    if runner.lr_scheduler_type == "constant" or is_by_step:
        schedule = []
    effects = (
        (rounding, "sums are rounded differently"),
        (batches, "batches and noise differ"),
        (schedule, "from here on, the learning rate follows the new schedule"),
    )
    return [f"{', '.join(found)} ({effect})" for found, effect in effects if found]


def _section_changes(
    section: str, kind: type, old: Mapping[str, Any], new: Mapping[str, Any]
) -> list[str]:
    """A line `path: old -> new` for each changed key of a section that steps depend on."""
    skipped = NO_WARNING[section] | REPORTED_AS_SETUP[section]
    before, after = (
        {k: v for k, v in _with_defaults(kind, tree[section], section).items() if k not in skipped}
        for tree in (old, new)
    )
    return list(_differences(section, before, after))


def _with_defaults(kind: type, tree: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Fills in the defaults of fields newer than the checkpoint, if the tree still binds."""
    try:
        data: Mapping[str, Any] = unbind(bind(kind, tree, where))
    except ConfigError:
        return tree
    return data


def _differences(path: str, old: object, new: object) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys((*old, *new)):
            yield from _differences(f"{path}.{key}", old.get(key), new.get(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _differences(f"{path}.{index}", before, after)
    elif old != new:
        yield f"{path}: {_short(old)} -> {_short(new)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
