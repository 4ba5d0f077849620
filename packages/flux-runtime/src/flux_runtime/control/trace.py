"""What an episode leaves in memory for its report. Its size has a bound, however long it lasts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from .episode_log import Event, InferenceTimes, Rows
from .latency import INTERVAL_EDGES_MS, Histogram, RunningHistogram

MAX_ROWS = 8192
"""Ticks kept in real time; of a longer episode, every second, fourth, ... tick is kept."""
CLAMPS = ("position", "velocity", "acceleration", "jerk")
MAX_CLAMPS, MAX_EVENTS = 100, 500
"""Events kept: the first ones, of commands that were moved inside a limit and of all other kinds.
The recording has all, and the counts are complete."""
MAX_POINTS = 4096
"""Points kept of figures over time, each the worst of the time it stands for."""

GAP_PERIODS = 1.5

T = TypeVar("T")


@dataclass(kw_only=True)
class EpisodeTrace:
    """What happened at each tick.

    Attributes:
        states: (state_dim,) float32 each, read before the command.
        commands: (action_dim,) float32 each, as sent.
        flags: status bits of each tick.
        lateness_s: how late each tick started; in real time, how late the command left.
        chunk_starts: ticks at which a chunk was requested.
        times_s: when each command left, in real time. Empty in lockstep: tick i is at i periods.
    """

    states: list[NDArray[np.float32]] = field(default_factory=list[NDArray[np.float32]])
    commands: list[NDArray[np.float32]] = field(default_factory=list[NDArray[np.float32]])
    flags: list[int] = field(default_factory=list[int])
    lateness_s: list[float] = field(default_factory=list[float])
    chunk_starts: list[int] = field(default_factory=list[int])
    times_s: list[float] = field(default_factory=list[float])

    def seconds(self, control_hz: float) -> NDArray[np.float64]:
        """Returns the time of each tick, (T,), since the episode's first tick was due."""
        return np.asarray(self.times_s or np.arange(len(self.commands)) / control_hz, np.float64)


@dataclass(frozen=True, kw_only=True)
class IntervalPoint:
    """The longest interval between two commands within a short time."""

    time_s: float
    longest_ms: float


@dataclass(frozen=True, kw_only=True)
class CommandCounts:
    """What became of the commands of an episode in real time; None if the driver did not say.

    Attributes:
        sent: by the control loop.
        accepted: by the driver until the episode ended.
        superseded: by newer ones before the driver took them, as while it was late.
    """

    sent: int
    accepted: int | None
    superseded: int | None


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The times of an episode in real time.

    Attributes:
        intervals: between two commands, all of them.
        longest_intervals: over time.
        num_gaps: intervals of more than `GAP_PERIODS` periods: at least one tick is missing.
        inferences: with the ages of what each was made from.
        event_counts: events by name; more than `events` of the result if there were many.
    """

    intervals: Histogram
    longest_intervals: Sequence[IntervalPoint]
    num_gaps: int
    inferences: Sequence[InferenceTimes]
    event_counts: dict[str, int]

    def without_series(self) -> Timing:
        """Returns only what does not grow with the episode."""
        return replace(self, longest_intervals=(), inferences=())


class WorstOverTime(Generic[T]):
    """Keeps at most `MAX_POINTS` entries: of many, the worst of each group of neighbours."""

    def __init__(self, badness: Callable[[T], float]) -> None:
        self.entries: list[T] = []
        self._badness = badness
        self._group_size = 1
        self._in_group = 0

    def add(self, entry: T) -> None:
        """Adds the next entry in time."""
        if self._in_group == 0:
            self.entries.append(entry)
        else:
            self.entries[-1] = max(self.entries[-1], entry, key=self._badness)
        self._in_group = (self._in_group + 1) % self._group_size
        if len(self.entries) == MAX_POINTS and self._in_group == 0:
            pairs = zip(self.entries[::2], self.entries[1::2], strict=True)
            self.entries = [max(pair, key=self._badness) for pair in pairs]
            self._group_size *= 2


class FirstEvents:
    """Keeps the first events. Clamped commands, of which there may be many, have a bound of their
    own, so that they never displace a hold or a stop."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._num_clamps = 0

    def add(self, event: Event) -> bool:
        """Keeps the event unless there are too many, and returns whether it is kept."""
        if event.name in CLAMPS:
            self._num_clamps += 1
            is_kept = self._num_clamps <= MAX_CLAMPS
        else:
            is_kept = len(self.events) - min(self._num_clamps, MAX_CLAMPS) < MAX_EVENTS
        if is_kept:
            self.events.append(event)
        return is_kept


class RealtimeTrace:
    """An `EpisodeLog` in memory of bounded size."""

    def __init__(self, control_hz: float) -> None:
        self._first_events = FirstEvents()
        self._gap_ms = GAP_PERIODS * 1e3 / control_hz
        self._num_gaps = 0
        self.num_rows = 0
        self._event_counts: dict[str, int] = {}
        self._rows: list[Rows] = []
        self._num_kept = 0
        self._stride = 1
        self._last_sent_s: float | None = None
        self._intervals = RunningHistogram(INTERVAL_EDGES_MS)
        self._longest = WorstOverTime[IntervalPoint](lambda point: point.longest_ms)
        self._inferences = WorstOverTime[InferenceTimes](_oldest_s)

    def add_rows(self, rows: Rows) -> None:
        """Counts the intervals, and keeps every row whose number is a multiple of the stride."""
        if not len(rows):
            return
        self._add_intervals(rows)
        kept = rows[-self.num_rows % self._stride :: self._stride].copy()
        self.num_rows += len(rows)
        if not len(kept):
            return  # in a long episode mostly; arrays of no rows take memory, too
        self._rows.append(kept)
        self._num_kept += len(kept)
        if self._num_kept > MAX_ROWS:
            self._rows = [np.concatenate(self._rows)[::2].copy()]
            self._num_kept = len(self._rows[0])
            self._stride *= 2

    def begin_part(self) -> None:
        """Tells that commands were not to be sent for a time, as during a pause."""
        self._last_sent_s = None

    def add_event(self, event: Event) -> None:
        """Counts the event, and keeps it unless there are too many."""
        if event.what != "end":
            self._event_counts[event.name] = self._event_counts.get(event.name, 0) + 1
        self._first_events.add(event)

    @property
    def events(self) -> list[Event]:
        """The events that are kept."""
        return self._first_events.events

    def add_inference(self, times: InferenceTimes) -> None:
        """Keeps the times; of many inferences, those with the oldest data."""
        self._inferences.add(times)

    def trace(self) -> EpisodeTrace:
        """Returns the kept ticks."""
        if not self._rows:
            return EpisodeTrace()
        rows = np.concatenate(self._rows)
        return EpisodeTrace(
            states=list(rows["state"]),
            commands=list(rows["command"]),
            flags=rows["flags"].tolist(),
            lateness_s=rows["lateness_s"].tolist(),
            times_s=rows["timestamp_s"].tolist(),
        )

    def timing(self) -> Timing:
        """Returns the times so far."""
        return Timing(
            intervals=self._intervals.histogram(),
            longest_intervals=tuple(self._longest.entries),
            num_gaps=self._num_gaps,
            inferences=tuple(self._inferences.entries),
            event_counts=dict(self._event_counts),
        )

    def _add_intervals(self, rows: Rows) -> None:
        sent = rows["timestamp_s"]
        if self._last_sent_s is not None:
            sent = np.concatenate([[self._last_sent_s], sent])
        self._last_sent_s = float(sent[-1])
        intervals_ms = np.diff(sent) * 1e3
        self._intervals.add(intervals_ms.tolist())
        self._num_gaps += int((intervals_ms > self._gap_ms).sum())
        for time_s, interval_ms in zip(sent[1:].tolist(), intervals_ms.tolist(), strict=True):
            self._longest.add(IntervalPoint(time_s=time_s, longest_ms=interval_ms))


def _oldest_s(times: InferenceTimes) -> float:
    ages = (times.state_age_s, *times.frame_ages_s.values())
    return max((age for age in ages if not math.isnan(age)), default=0.0)
