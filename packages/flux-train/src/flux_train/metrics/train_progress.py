"""The progress bar of a run."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class TrainProgress:
    """A progress bar on stderr; without a terminal, one line per tenth of the run."""

    def __init__(self, total_steps: int, first_step: int = 0, *, is_quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=is_quiet)
        self._total = total_steps
        self._next_line = first_step
        self._bar = Progress(
            TextColumn("[bold]training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("{task.fields[samples_per_s]:.0f} samples/s"),
            TextColumn("{task.fields[memory]}"),
            TextColumn("waiting for data {task.fields[data_wait_share]:.0%}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task(
            "training",
            total=total_steps,
            completed=first_step,
            loss=float("nan"),
            samples_per_s=0.0,
            data_wait_share=0.0,
            memory="",
        )

    def update(self, values: Mapping[str, Any]) -> None:
        """Shows the newest metrics."""
        shown = {key: values[key] for key in ("samples_per_s", "data_wait_share")}
        shown["loss"] = values.get("loss", float("nan"))
        mfu = "" if values["mfu"] is None else f"MFU {values['mfu']:.0%}, "
        memory = f"{mfu}{values['peak_memory_bytes'] / 2**30:.1f} GiB"
        self._bar.update(self._task, completed=values["step"], memory=memory, **shown)
        if not self.console.is_terminal and values["step"] >= self._next_line:
            self._next_line = values["step"] + max(self._total // 10, 1)
            self.console.print(
                f"step {values['step']}/{self._total} loss {shown['loss']:.4f} "
                f"{values['samples_per_s']:.0f} samples/s, "
                f"waiting for data {values['data_wait_share']:.0%}"
            )

    def __enter__(self) -> TrainProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()
