"""What a run tells about itself: `metrics.jsonl` and the loss plot."""

from __future__ import annotations

import json
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


class MetricsLog:
    """Appends one JSON object a line; on resume the lines after the resumed step are dropped."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        self.path = path
        kept = [line for line in read_metrics(path) if line["step"] <= resumed_step]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def write(self, values: Mapping[str, object]) -> None:
        """Appends `values`."""
        with self.path.open("a") as file:
            file.write(json.dumps(values) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All lines of a metrics file, none if there is no file; the last may have been cut off."""
    if not path.is_file():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def peak_memory_bytes() -> int:
    """Peak of the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def plot_loss(metrics: list[dict[str, Any]], path: Path) -> None:
    """Draws loss and learning rate over steps into a PNG."""
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
