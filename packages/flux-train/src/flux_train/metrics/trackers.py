"""Where metrics go besides `metrics.jsonl`: TensorBoard and Weights & Biases."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from flux_core.errors import FluxError, MissingDependencyError

from ..config.runner import VLAMetric


class Tracker(Protocol):
    """Receives a run's metrics; `folder` is where it writes in the work dir."""

    folder: str

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Logs one line of metrics, nested as in `metrics.jsonl`."""

    def close(self) -> None:
        """Sends or writes everything that is still buffered."""


def check_trackers(metric: VLAMetric) -> None:
    """Refuses a tracker whose package is not installed; cheap enough to check first."""
    for name in metric.active_trackers:
        if name != "jsonl" and importlib.util.find_spec(name) is None:
            raise MissingDependencyError(
                f"runner.metric.active_trackers: {name!r} needs a package that is not installed: "
                f"pip install {name}"
            )


def make_trackers(
    metric: VLAMetric, work_dir: Path, config_tree: Mapping[str, Any], resume_step: int
) -> list[Tracker]:
    """The trackers that a config asks for, except `jsonl`; called by one process of a run.

    Args:
        metric: which trackers, and their settings.
        work_dir: the run's directory, which exists.
        config_tree: the resolved config, kept with the metrics.
        resume_step: the step of the checkpoint that the run resumes from; 0 for a new run. What an
            earlier attempt logged after it is replaced.

    Raises:
        MissingDependencyError: a package is not installed.
        FluxError: Weights & Biases refused the login.
    """
    check_trackers(metric)
    trackers: list[Tracker] = []
    if "tensorboard" in metric.active_trackers:
        trackers.append(TensorBoardTracker(work_dir, config_tree, resume_step))
    if "wandb" in metric.active_trackers:
        trackers.append(WandbTracker(metric, work_dir, config_tree, resume_step))
    return trackers


def flat_numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Every number, named by its path: `loss_by_robot/aloha`, `loss_by_dimension/aloha/3`.

    Null and text are left out.
    """
    return dict(_numbers("", values))


def _numbers(path: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        items: Any = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        if isinstance(value, int | float):
            yield path, float(value)
        return
    for key, inner in items:
        yield from _numbers(f"{path}/{key}" if path else str(key), inner)


class TensorBoardTracker:
    """Writes event files into `$TENSORBOARD_LOG_PATH`, or WORK_DIR/tensorboard."""

    folder = "tensorboard"

    def __init__(self, work_dir: Path, config_tree: Mapping[str, Any], resume_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = os.environ.get("TENSORBOARD_LOG_PATH") or work_dir / "tensorboard"
        # TensorBoard then hides what an earlier attempt wrote for these steps.
        self._writer = SummaryWriter(str(folder), purge_step=resume_step + 1)
        text = json.dumps(config_tree, indent=1).replace("\n", "\n    ")
        self._writer.add_text("config", f"    {text}", resume_step + 1)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Takes one line of metrics."""
        for name, value in flat_numbers(values).items():
            if name not in ("step", "epoch"):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes everything that is still buffered."""
        self._writer.close()


class WandbTracker:
    """Logs to Weights & Biases; its files are in WORK_DIR/wandb.

    `WANDB_PROJECT` and `WANDB_ENTITY` override the config; `WANDB_MODE=offline` sends nothing.
    WORK_DIR/wandb_run_id holds the run's id, so that a resumed run continues the same one.
    """

    folder = "wandb"

    def __init__(
        self,
        metric: VLAMetric,
        work_dir: Path,
        config_tree: Mapping[str, Any],
        resume_step: int,
    ) -> None:
        import wandb
        from wandb.errors import Error

        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT") or metric.wandb_project,
                entity=os.environ.get("WANDB_ENTITY") or metric.wandb_entity,
                id=_run_id(work_dir / "wandb_run_id", is_new=resume_step == 0),
                name=work_dir.resolve().name,
                dir=work_dir,
                config=dict(config_tree),
                resume="allow",
                # It would copy little besides the progress bar.
                settings=wandb.Settings(console="off", silent=True),
            )
        except Error as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise FluxError(
                f"runner.metric.active_trackers: 'wandb' refused the login ({reason}). Run 'wandb "
                "login', or set WANDB_MODE=offline"
            ) from error
        # Its own counter cannot go back to the step that a run resumes from.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Takes one line of metrics."""
        self._run.log({**flat_numbers(values), "step": step})

    def close(self) -> None:
        """Waits until everything is sent or written."""
        self._run.finish()


def _run_id(path: Path, *, is_new: bool) -> str:
    if path.is_file() and not is_new:
        return path.read_text().strip()
    run_id = secrets.token_hex(4)
    path.write_text(run_id + "\n")
    return run_id
