"""Reads what a work dir says about its run besides the metrics."""

from __future__ import annotations

import json
import math
import shlex
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_core.robots import ROBOT_SPECS

from .history import History, steps_per_epoch

Tree = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """A run as its files describe it; what is missing is an empty tree or None.

    Attributes:
        config: `config.json`.
        environment: `environment.json`.
        num_parameters: in the network of the newest checkpoint.
        total_steps: of the whole run; an estimate if only the number of epochs is known.
        is_finished: whether the run has finished.
        checkpoints: names of the checkpoints, oldest first.
    """

    config: Tree
    environment: Tree
    num_parameters: int | None
    total_steps: int | None
    is_finished: bool
    checkpoints: tuple[str, ...]

    @property
    def resumed_steps(self) -> tuple[int, ...]:
        """The steps from which the run was resumed."""
        steps = self.environment.get("resumed_steps")
        return tuple(steps) if isinstance(steps, list) else ()


def read_facts(work_dir: Path, history: History) -> RunFacts:
    """Reads the files that are there; a damaged file counts as missing."""
    config, environment = (_json(work_dir / f"{n}.json") for n in ("config", "environment"))
    weights = sorted(work_dir.glob("checkpoint_*.safetensors"), key=lambda p: p.stat().st_mtime)
    names = tuple(path.stem for path in weights)
    runner = section(config, "runner")
    total = _whole(environment.get("total_steps")) or _whole(runner.get("max_steps"))
    epochs, length = _whole(runner.get("max_epochs")), steps_per_epoch(history.train)
    if total is not None:
        is_finished = history.last_step >= total
    else:
        is_finished = f"checkpoint_epoch_{epochs}" in names
        total = history.last_step if is_finished else _product(length, epochs)
    return RunFacts(
        config=config,
        environment=environment,
        num_parameters=_whole(environment.get("num_parameters")) or _num_parameters(weights),
        total_steps=total,
        is_finished=is_finished,
        checkpoints=names,
    )


def _product(length: float | None, epochs: int | None) -> int | None:
    return None if length is None or epochs is None else round(length * epochs)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _json(path: Path) -> Tree:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _num_parameters(weights: list[Path]) -> int | None:
    """Counts parameters from the header of the newest readable file, without reading tensors."""
    for path in reversed(weights):
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(min(length, 1 << 26)))
            return sum(math.prod(v["shape"]) for k, v in header.items() if k != "__metadata__")
        except (OSError, ValueError, struct.error, KeyError, TypeError):
            continue
    return None


def section(tree: Tree, *names: str) -> Tree:
    """Returns a section of a config; empty if there is none."""
    value: Any = tree
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def summary(facts: RunFacts) -> dict[str, str]:
    """Returns the run in a few lines: what is trained, on what, and how."""
    model, runner = section(facts.config, "model"), section(facts.config, "runner")
    loader = section(facts.config, "train_dataloader")
    git, packages = section(facts.environment, "git"), section(facts.environment, "packages")
    values: dict[str, Any] = {
        "Model": _short_type(model.get("type")),
        "Starts from": model.get("pretrained_name_or_path") or (model and "random weights"),
        "Adapters": f"LoRA, rank {model.get('lora_rank')}" if model.get("use_lora") else None,
        "Steps predicted": model.get("n_action_steps"),
        "Data": ", ".join(_roots(loader)),
        "Held-out data": ", ".join(_roots(section(facts.config, "validation"))),
        "Batch": _batch(loader, runner),
        "Runner": _short_type(runner.get("type")),
        "Recipe": runner.get("recipe"),
        "Learning rate": _rate(runner),
        "Weight average": runner.get("ema_decay") or None,
        "Seed": runner.get("seed"),
        "Resumed at step": ", ".join(f"{step:,}" for step in facts.resumed_steps),
        "Checkpoints": ", ".join(name.removeprefix("checkpoint_") for name in facts.checkpoints),
        "Code": _commit(git),
        "Python, torch": _versions(facts.environment, packages),
        "Device": facts.environment.get("gpu"),
        "Command": _command(facts.environment.get("command")),
    }
    return {name: str(value) for name, value in values.items() if value not in (None, "", {})}


def _short_type(name: object) -> str | None:
    return name.rpartition(":")[2] if isinstance(name, str) else None


def _roots(loader: Tree) -> Iterator[str]:
    """Returns every dataset directory below a section, once."""
    found: dict[str, None] = {}
    stack: list[Any] = [loader.get("dataset")]
    while stack:
        value = stack.pop(0)
        if isinstance(value, Mapping):
            roots = value.get("data_root_path", ())
            found.update(dict.fromkeys([roots] if isinstance(roots, str) else map(str, roots)))
            stack += value.values()
        elif isinstance(value, list | tuple):
            stack += value
    return iter(found)


def _batch(loader: Tree, runner: Tree) -> str | None:
    size = loader.get("per_device_batch_size")
    if size is None:
        return None
    parts = [f"{size} per device"]
    if (runner.get("gradient_accumulation_steps") or 1) > 1:
        parts.append(f"{runner['gradient_accumulation_steps']} batches per step")
    if (runner.get("num_noise_samples") or 1) > 1:
        parts.append(f"{runner['num_noise_samples']} noise draws")
    return ", ".join(parts)


def _rate(runner: Tree) -> str | None:
    rate = runner.get("learning_rate")
    return None if rate is None else f"{rate:g}, {runner.get('lr_scheduler_type', 'constant')}"


def _commit(git: Tree) -> str | None:
    commit = git.get("commit")
    if not isinstance(commit, str):
        return None
    return f"{commit[:12]}{', with changes' if git.get('is_dirty') else ''}"


def _versions(environment: Tree, packages: Tree) -> str | None:
    found = [environment.get("python"), packages.get("torch")]
    return ", ".join(str(version) for version in found if version) or None


def _command(command: object) -> str | None:
    return shlex.join(map(str, command)) if isinstance(command, list) else None


def names_of_dimensions(config: Tree, group: str, count: int, only_group: bool) -> tuple[str, ...]:
    """Returns the joint names of a dataset group's robot, or numbers if the config has none."""
    inference = section(config, "inference")
    runners = [inference] if "robot" in inference else list(inference.values())
    for runner in runners:
        robot, names = _joints(runner.get("robot") if isinstance(runner, Mapping) else None)
        if len(names) == count and (only_group or group.startswith(robot)):
            return names
    return tuple(str(dim) for dim in range(count))


def _joints(robot: object) -> tuple[str, tuple[str, ...]]:
    """The name and the joints of a robot that is written out, or only named; else nothing."""
    if isinstance(robot, Mapping):
        name, joints = robot.get("name"), robot.get("joint_names")
        if isinstance(name, str) and isinstance(joints, list):
            return name, tuple(map(str, joints))
        return "", ()
    spec = ROBOT_SPECS.get(robot) if isinstance(robot, str) else None
    return (spec.name, spec.joint_names) if spec else ("", ())
