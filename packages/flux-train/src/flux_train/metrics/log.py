"""A run's record of itself: `metrics.jsonl` and the loss plot."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .lines import line_of, parsed_line

logger = logging.getLogger("flux.train")


class MetricsLog:
    """Appends one JSON object per line; a resumed run drops the lines after its first step.

    Lines that could not be written stay in memory until the next write.
    """

    def __init__(self, path: Path, resumed_step: int) -> None:
        self.path = path
        self._waiting = ""
        kept = [line for line in read_metrics(path) if line["step"] <= resumed_step]
        partial = path.with_name(f".{path.name}.partial")
        try:
            partial.write_text("".join(line_of(values) for values in kept))
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        self._size = path.stat().st_size

    @property
    def has_waiting(self) -> bool:
        """Whether some lines have not reached the file yet."""
        return bool(self._waiting)

    def write(self, values: Mapping[str, object]) -> None:
        """Appends `values`, after the lines that still wait.

        Raises:
            OSError: the file cannot be written; the line waits.
        """
        self._waiting += line_of(values)
        self.flush()

    def flush(self) -> None:
        """Appends the lines that wait.

        Raises:
            OSError: the file cannot be written; they keep waiting, and no part of them is in it.
        """
        if not self._waiting:
            return
        text = self._waiting.encode()
        try:
            with self.path.open("ab") as file:
                file.write(text)
        except OSError:
            # A full disk may have taken the beginning of a line.
            with contextlib.suppress(OSError):
                os.truncate(self.path, self._size)
            raise
        self._size, self._waiting = self._size + len(text), ""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All lines of a metrics file; empty if there is no file.

    A line that is not an object with a step, as after a machine crash, is skipped with a warning.
    The last line is skipped without one, as it may have been cut off.
    """
    if not path.is_file():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    found = [parsed_line(line) if line.endswith(b"\n") else None for line in lines]
    if damaged := sum(values is None for values in found[:-1]):
        logger.warning("%s: skipped %d damaged lines", path, damaged)
    return [values for values in found if values is not None]


def peak_memory_bytes() -> int:
    """Peak memory of the GPU if there is one, otherwise of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def plot_loss(metrics: list[dict[str, Any]], path: Path) -> None:
    """Plots loss and learning rate over the steps as a PNG."""
    from matplotlib.figure import Figure

    metrics = [line for line in metrics if "loss" in line]
    steps = [line["step"] for line in metrics]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    loss_axis = figure.subplots()
    loss_axis.plot(steps, [line["loss"] for line in metrics], color="tab:blue", linewidth=1.2)
    loss_axis.set(xlabel="step", ylabel="flow matching loss", yscale="log")
    rate_axis = loss_axis.twinx()
    rate_axis.plot(
        steps, [line["learning_rate"] for line in metrics], color="tab:gray", linewidth=0.8
    )
    rate_axis.set_ylabel("learning rate")
    figure.savefig(path, dpi=120)
