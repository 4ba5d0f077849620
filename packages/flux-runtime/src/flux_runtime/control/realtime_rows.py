"""Turns what the control thread recorded into rows and events with times since the first tick."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.robots import RobotSpec

from ..engines.core import load_core
from .episode_log import Event, InferenceTimes, Rows, realtime_rows
from .latency import merge_stages
from .realtime_inference import MeasuredInference

RUNNING, HOLDING = 2, 3
"""Phases of the control loop, as places in `_core.PHASES`."""
PER_SESSION = ("tick", "jitter")
"""Stages that the control thread counts from zero in each session; others go on."""
_OF_JOINTS = (
    *("position", "velocity", "acceleration", "jerk", "border_jump", "following_error"),
    *("left_limits", "start_pose", "return_not_confirmed", "return_to_limits"),
)
_OF_STATES = ("state_not_finite",)


class HoldWatch:
    """Knows which faults hold the robot at the newest step of an episode.

    Rows and events arrive from two rings, so an event waits here until its step has come.
    """

    def __init__(self) -> None:
        self._step_s = -math.inf
        self._is_held = False
        self._open: dict[str, set[str]] = {}
        self._waiting: deque[Event] = deque()

    def add_steps(self, steps: Rows) -> None:
        """Takes the next steps, without the way back to the limits and braking."""
        if len(steps):
            self._step_s = float(steps["timestamp_s"][-1])
            self._is_held = int(steps["phase"][-1]) == HOLDING

    def add_event(self, event: Event) -> None:
        """Takes the next event of the control loop."""
        self._apply_past()
        if event.name in _holding_faults():
            self._waiting.append(event)

    def fault(self) -> str | None:
        """Returns the first fault that holds the robot, None if it is not held."""
        if not self._is_held:
            return None
        self._apply_past()
        return next(iter(self._open), "unknown")  # its event was dropped

    def _apply_past(self) -> None:
        while self._waiting and self._waiting[0].time_s <= self._step_s:
            self._apply(self._waiting.popleft())

    def _apply(self, event: Event) -> None:
        if event.what == "begin":
            self._open.setdefault(event.name, set()).add(event.subject)
        elif event.what == "end" and event.name in self._open:
            self._open[event.name].discard(event.subject)
            if not event.subject or not self._open[event.name]:
                del self._open[event.name]


@lru_cache
def _holding_faults() -> frozenset[str]:
    reactions = ("hold", "refuse_chunk")
    return frozenset(name for name, reaction, _ in load_core().FAULTS if reaction in reactions)


class SessionTimes:
    """Knows when the first tick of a session was due, and what joints and cameras are called."""

    def __init__(self, spec: RobotSpec, cameras: Sequence[str], now_ns: int) -> None:
        """Takes `now_ns` for the first tick until it is known."""
        self._spec = spec
        self._cameras = tuple(cameras)
        self._origin_ns = now_ns
        self._has_ticks = False
        self._dtype = realtime_rows(spec.state_dim, spec.action_dim, len(self._cameras))

    def rows(self, ticks: NDArray[np.void]) -> Rows:
        """Returns the ticks at which a command was sent.

        Args:
            ticks: what `_core.RealtimeLoop.drain_ticks` returned, of one session.
        """
        sent = ticks[ticks["sent_ns"] != 0]
        if not self._has_ticks and len(sent):
            self._origin_ns, self._has_ticks = int(sent["deadline_ns"][0]), True
        rows = np.zeros(len(sent), self._dtype)
        sent_ns = sent["sent_ns"]
        rows["timestamp_s"] = (sent_ns - self._origin_ns) * 1e-9
        rows["lateness_s"] = (sent_ns - sent["deadline_ns"]) * 1e-9
        rows["sent_s"] = sent_ns * 1e-9
        rows["deadline_s"] = sent["deadline_ns"] * 1e-9
        rows["state_age_s"] = _ages_s(sent_ns, sent["state_captured_ns"])
        rows["observation_age_s"] = _ages_s(sent_ns, sent["observed_ns"])
        rows["frame_age_s"] = _ages_s(sent_ns[:, None], sent["frame_captured_ns"])
        names = ("state", "command", "flags", "sequence", "acknowledged", "phase", "chunk", "row")
        for name in (*names, "speed"):
            rows[name] = sent[name]
        return rows

    def event(self, event: Mapping[str, Any]) -> Event:
        """Returns an event of `_core.RealtimeLoop.drain_events`."""
        name = str(event["name"])
        return Event(
            time_s=self.seconds(event["time_ns"]),
            name=name,
            what=event["what"],
            subject=self._subject(name, int(event["index"])),
            value=_finite(event["value"]),
            limit=_finite(event["limit"]),
        )

    def inference(self, measured: MeasuredInference) -> InferenceTimes:
        """Returns the times of an inference; the age of a sensor without data is NaN."""
        began_ns, looked_ns = measured.began_ns, measured.looked_ns
        frames = {
            name: _age_s(looked_ns, measured.frames_ns.get(name, 0)) for name in self._cameras
        }
        return InferenceTimes(
            time_s=self.seconds(began_ns),
            duration_s=(measured.ended_ns - began_ns) * 1e-9,
            state_age_s=_age_s(looked_ns, measured.state_ns),
            frame_ages_s=frames,
        )

    def seconds(self, time_ns: int) -> float:
        """Returns a time on the monotonic clock as seconds since the first tick was due."""
        return (time_ns - self._origin_ns) * 1e-9

    def _subject(self, name: str, index: int) -> str:
        names: Sequence[str] = ()
        if name.startswith("frame_"):
            names = self._cameras
        elif name in _OF_JOINTS:
            names = self._spec.joint_names
        elif name in _OF_STATES:
            names = self._spec.state_names or self._spec.joint_names
        return names[index] if 0 <= index < len(names) else ""


def total_stats(sessions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the statistics of all sessions of an episode, as `_core.RealtimeLoop.stats` returned
    them for each."""
    last = sessions[-1]
    if len(sessions) == 1:
        return dict(last)
    totals: dict[str, Any] = dict(last)
    for name in ("deadline_misses", "held_ticks", "chunks"):
        totals[name] = sum(stats[name] for stats in sessions)
    for name in ("violations", "faults"):
        totals[name] = _sum([stats[name] for stats in sessions])
    totals["histograms"] = {
        **last["histograms"],
        **merge_stages(
            [{stage: stats["histograms"][stage] for stage in PER_SESSION} for stats in sessions]
        ),
    }
    if last["rtc"] is not None:
        totals["rtc"] = {
            "delays": _sum([stats["rtc"]["delays"] for stats in sessions]),
            "late": sum(stats["rtc"]["late"] for stats in sessions),
        }
    return totals


def _sum(counts: Sequence[Mapping[Any, int]]) -> dict[Any, int]:
    total: Counter[Any] = Counter()
    for entry in counts:
        total.update(entry)
    return dict(total)


def _ages_s(now_ns: NDArray[np.int64], captured_ns: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns ages, NaN where there is no capture time."""
    return np.where(captured_ns == 0, np.nan, (now_ns - captured_ns) * 1e-9)


def _age_s(now_ns: int, captured_ns: int) -> float:
    return (now_ns - captured_ns) * 1e-9 if captured_ns else math.nan


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
