"""What `flux-eval` shows in the terminal: a progress bar on stderr, tables on stdout."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ..control.success import wilson_interval
from .evaluator import Played


class EvaluationConsole:
    """Shows progress over episodes with the running success rate and its interval."""

    def __init__(self, *, is_json: bool) -> None:
        self._num_successes = 0
        self._num_done = 0
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=not is_json,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("starting", total=None, rate="")

    def __enter__(self) -> EvaluationConsole:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def say(self, step: str) -> None:
        """Shows the current step before the first episode."""
        self._progress.update(self._task, description=step)

    def on_episode(self, played: Played, total: int) -> None:
        """Advances the bar."""
        self._num_done += 1
        self._num_successes += bool(played.result.success)
        rate = rate_text(
            self._num_successes / self._num_done,
            *wilson_interval(self._num_successes, self._num_done),
        )
        self._progress.update(
            self._task, completed=self._num_done, total=total, description="episodes", rate=rate
        )

    def print_report(self, report: Mapping[str, Any]) -> None:
        """Prints the tables and the rates on stdout."""
        console = Console()
        if len(report["tasks"]) > 1:
            console.print(_task_table(report))
        for line in report_lines(report):
            console.print(line, highlight=False, markup=False, soft_wrap=True)


def rate_text(rate: float, low: float, high: float) -> str:
    """Formats a rate together with its interval."""
    return f"{rate:.1%} (95% interval {low:.1%} to {high:.1%})"


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """Returns the lines below the table."""
    seeds = report["seeds"]
    rates = {"success": (report["success_rate"], report["ci95"])}
    if "strict_success_rate" in report:
        rates["strict"] = report["strict_success_rate"], report["strict_ci95"]
    rates |= {name: (stage["rate"], stage["ci95"]) for name, stage in report["stages"].items()}
    lines = [
        f"{report['suite']}: {report['num_episodes']} episodes, seeds {seeds[0]} to {seeds[-1]}",
        *(f"{name:<12}{rate_text(rate, *interval)}" for name, (rate, interval) in rates.items()),
        f"limits      commands sent out of limit: {report['commands_out_of_limit']}",
    ]
    if "report" in report:
        lines.append(f"report      {report['report']}")
    return lines


def _task_table(report: Mapping[str, Any]) -> Table:
    table = Table(title=Text(str(report["suite"])))
    table.add_column("task")
    for name in ("successes", "rate and 95% interval"):
        table.add_column(name, justify="right")
    for task in report["tasks"]:
        low, high = task["ci95"]
        rate = f"{task['success_rate']:.0%} ({low:.0%} to {high:.0%})"
        successes = f"{task['num_successes']}/{task['num_episodes']}"
        table.add_row(Text(task["prompt"]), successes, rate)
    return table
