"""What `flux-runtime run` shows in the terminal: a progress bar on stderr, a table on stdout."""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from flux_core.errors import MissingDependencyError

from ..control.episode import OF_THE_POLICY
from ..control.realtime_session import RealtimeSession

if TYPE_CHECKING:
    from ..control.episode import EpisodeResult
    from ..control.session import RunOptions, Session
    from ..operator import OperatorStatus
    from ..robots import RobotChoice

try:
    from rich.console import Console
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table
    from rich.text import Text
except ImportError as error:
    raise MissingDependencyError(
        "rich: not installed. Install it with: pip install rich"
    ) from error


ASK_EVERY_S = 0.1


class RunConsole:
    """Shows progress over episodes with the running success rate."""

    def __init__(self, options: RunOptions, *, is_json: bool) -> None:
        self._is_json = is_json
        self._num_successes = 0
        self._num_done = 0
        self._is_stopped = False
        self._line: Live | None = None
        self._keyboard: TextIO | None = None
        self._shown: tuple[object, ...] = ()
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=not is_json,
            disable=options.dry_run or not self._console.is_terminal,
        )
        self._task = self._progress.add_task("preflight", total=options.episodes, rate="")

    def __enter__(self) -> RunConsole:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the progress bar, which would take what is printed on stdout to stderr."""
        if not self._is_stopped:
            self._is_stopped = True
            self._progress.stop()
            if self._line is not None:
                self._line.stop()
            if self._keyboard is not None:
                self._keyboard.close()

    def on_choice(self, choice: RobotChoice) -> None:
        """Prints which robot is driven, by which driver, and why."""
        if not self._is_json:
            self._print(choice.lines)

    def on_ready(self, session: Session | RealtimeSession) -> None:
        """Prints what an operator should read before a robot moves in real time."""
        self._progress.update(self._task, total=session.options.episodes)
        if isinstance(session, RealtimeSession) and not self._is_json:
            self._print(session.lines())

    def _print(self, lines: Sequence[str]) -> None:
        for line in lines:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def show(self, status: OperatorStatus) -> None:
        """Shows the operator's line: in place on a terminal, elsewhere once per change."""
        console = self._operator_console()
        if console is None:
            self._show_change(status)
            return
        if self._line is None:
            self._progress.stop()
            self._line = Live(console=console, transient=True, auto_refresh=False)
            self._line.start()
        line = Text(f"{status.what()}   [{status.keys()}]", no_wrap=True, overflow="ellipsis")
        self._line.update(line, refresh=True)

    def _operator_console(self) -> Console | None:
        """Returns the terminal where the operator reads, also if stderr is a file."""
        if self._console.is_terminal:
            return self._console
        if self._keyboard is None and sys.stdin is not None and sys.stdin.isatty():
            terminal = Path(os.ttyname(sys.stdin.fileno()))
            self._keyboard = terminal.open("w", encoding="utf-8")
        return None if self._keyboard is None else Console(file=self._keyboard)

    def _show_change(self, status: OperatorStatus) -> None:
        shown = (status.state, status.task, status.episode, status.text)
        if shown == self._shown:
            return
        self._shown = shown
        if self._is_json:
            line = json.dumps(status.as_data(), ensure_ascii=False)
        else:
            line = f"operator: {status.what()}; {status.words()}"
        print(line, file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Tells the operator something."""
        self._print([text])

    def confirm(self, question: str, is_cancelled: Callable[[], bool]) -> bool:
        """Asks on a terminal; elsewhere the option that leads to the question is the answer."""
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            return True
        self._progress.stop()
        print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
        try:
            # Not input(): the signals that should end it are read by the control thread.
            while not is_cancelled():
                if select.select([sys.stdin], [], [], ASK_EVERY_S)[0]:
                    return sys.stdin.readline().strip().lower() in ("y", "yes")
            return False
        finally:
            self._progress.start()

    def on_episode(self, result: EpisodeResult) -> None:
        """Advances the bar."""
        self._num_done += 1
        self._num_successes += bool(result.success)
        rate = "" if result.success is None else f"{self._num_successes}/{self._num_done} done"
        self._progress.update(self._task, advance=1, description="episodes", rate=rate)

    def print_report(self, report: Mapping[str, Any]) -> None:
        """Prints the final table on stdout."""
        console = Console()
        if report.get("dry_run"):
            console.print(f"{report['robot']}: ready to run ({report['engine']})", markup=False)
            return
        episodes: Sequence[Mapping[str, Any]] = report["episodes"]
        if not episodes:
            console.print(f"{report['robot']}: {report['reason']}", markup=False)
            return
        title = f"{report['robot']} · {report['policy']} · {report['prompt']}"
        table = Table(title=Text(title))  # a Text, because the prompt may contain rich's markup
        hidden = {"commands_out_of_limit", "ended_in_hold"}
        if all(episode.get("task", report["prompt"]) == report["prompt"] for episode in episodes):
            hidden.add("task")
        if not any(episode.get("pauses") for episode in episodes):
            hidden.add("pauses")
        if all(episode["outcome"] == "finished" for episode in episodes):
            hidden.add("outcome")
        columns = [name for name in episodes[-1] if name not in hidden]
        for name in columns:
            table.add_column(name.replace("_", " "), justify="right")
        for episode in episodes:
            table.add_row(*(_cell(episode.get(name)) for name in columns))
        console.print(table)
        for line in summary_lines(report):
            console.print(line, highlight=False, markup=False, soft_wrap=True)


def summary_lines(report: Mapping[str, Any]) -> list[str]:
    """Returns the lines below the table."""
    violations = ", ".join(
        f"{count} {kind}"
        for kind, count in report["violations"].items()
        if count and kind in OF_THE_POLICY
    )
    inference = report["inference_p50_ms"]
    lines = [
        _rate_line("success", report["success_rate"], report["ci95"]),
        _rate_line("strict", report["strict_success_rate"], report["strict_ci95"]),
        f"ticks       {report['ticks']}, deadline misses {report['deadline_misses']}, jitter p99 "
        f"{report['jitter_p99_ms']:.3f} ms ({report['clock']} clock)",
        f"inference   {'-' if inference is None else f'p50 {inference:.1f} ms'} "
        f"({report['engine']})",
        _mode_line(report),
        f"violations  {violations or 'none'}; commands sent out of limit: "
        f"{report['commands_out_of_limit']}",
    ]
    if "remote" in report:
        lines.append(_server_line(report["remote"]))
    if "predicted_against_recorded" in report:
        lines.append(_predicted_line(report["predicted_against_recorded"]))
    if "interval" in report:
        lines.append(_interval_line(report["interval"]))
    if "commands" in report:
        lines.append(_commands_line(report["commands"]))
    if "event_counts" in report:
        counts = ", ".join(f"{count} {name}" for name, count in report["event_counts"].items())
        lines.append(f"events      {counts or 'none'}")
    lines += _driver_lines(report.get("events", ()))
    if report.get("recording") == "incomplete":
        lost = ", ".join(f"{n} {what}" for what, n in report["recording_dropped"].items())
        lines.append(f"recording   incomplete, it cannot be replayed; dropped: {lost or 'its end'}")
    if "dataset_recording" in report:
        lines.append(_dataset_line(report["dataset_recording"]))
    if report["outcome"] != "finished":
        lines.append(f"outcome     {report['outcome']}: {report['reason']}")
    if "report" in report:
        lines.append(f"report      {report['report']}")
    return lines


def _server_line(server: Mapping[str, Any]) -> str:
    trip = server["round_trip_ms"]
    return (
        f"server      {server['url']}: round trip p50 {trip['p50']:.1f} ms, p95 {trip['p95']:.1f} "
        f"ms; reconnects: {server['reconnects']}, late answers: {server['late_answers']}"
    )


def _driver_lines(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the words of the events that have some, each kind once."""
    texts = {event["name"]: event["text"] for event in reversed(list(events)) if event.get("text")}
    return [f"            {text}" for text in reversed(texts.values())]


def _predicted_line(found: Mapping[str, Any]) -> str:
    line = f"predicted   {found['actions']} actions, compared with the recorded ones"
    if not found["actions"]:
        return line
    name, worst = max(found["joints"].items(), key=lambda pair: pair[1]["mean_abs_error"])
    held = worst["mean_abs_error_of_holding"]
    beside = "" if held is None else f" (of holding still: {held:.3g})"
    return f"{line}; largest mean error: {name} {worst['mean_abs_error']:.3g}{beside}"


def _dataset_line(dataset: Mapping[str, Any]) -> str:
    dropped = ", ".join(f"{count} {what}" for what, count in dataset["dropped"].items() if count)
    return (
        f"dataset     {dataset['path']}: {dataset['episodes']} episodes, {dataset['rows']} rows, "
        f"{dataset['pictures']} pictures, {dataset['repeated']} of them repeated; dropped: "
        f"{dropped or 'none'}" + ("" if dataset["complete"] else "; incomplete")
    )


def _mode_line(report: Mapping[str, Any]) -> str:
    line = f"mode        {report['mode']} ({report['mode_reason']})"
    if (rtc := report["rtc"]) is not None:
        counts = ", ".join(f"{count} with {rows}" for rows, count in rtc["delays"].items())
        line += f"; {rtc['method']}; chunks by known rows: {counts}; late: {rtc['late']}"
    return line + (f"; speed {report['speed']:g}" if report["speed"] != 1 else "")


def _interval_line(interval: Mapping[str, Any]) -> str:
    return (
        f"intervals   p50 {interval['p50_ms']:.1f} ms, p99 {interval['p99_ms']:.1f} ms, longest "
        f"{interval['max_ms']:.1f} ms; gaps: {interval['gaps']}"
    )


def _commands_line(commands: Mapping[str, int | None]) -> str:
    sent, accepted, superseded = (commands[name] for name in ("sent", "accepted", "superseded"))
    if accepted is None:
        return f"commands    {sent} sent; how many reached the robot is unknown"
    return f"commands    {sent} sent, {accepted} accepted by the driver, {superseded} superseded"


def _rate_line(name: str, rate: float | None, interval: Sequence[float] | None) -> str:
    if rate is None or interval is None:
        return f"{name:<12}unknown: the robot cannot tell"
    return f"{name:<12}{rate:.1%}  (95% interval {interval[0]:.1%} to {interval[1]:.1%})"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
