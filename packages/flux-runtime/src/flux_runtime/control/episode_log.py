"""What happens in an episode, in the form in which it is recorded while it happens.

A tick is a row of a numpy record array, so that rows are written to disk as they are. Rows of an
episode in lockstep have the fields of `tick_rows`; rows in real time those of `realtime_rows`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from flux_core.types import Observation

Outcome = Literal["finished", "interrupted", "failed"]
"""How an episode or a run ended: as planned, by the operator, or because of a fault."""

Rows = NDArray[np.void]
"""A record array with the fields of `tick_rows` or `realtime_rows`."""

_SHARED_FIELDS = (
    ("timestamp_s", "<f8"),  # when the command left, since the episode's first tick was due
    ("lateness_s", "<f8"),  # how long after its deadline
    ("flags", "<i8"),  # status bits
)
_REALTIME_FIELDS = (
    ("sent_s", "<f8"),  # when the command left, on the monotonic clock
    ("deadline_s", "<f8"),  # when it was due, on the same clock
    ("state_age_s", "<f8"),  # age of the newest measured state; NaN if there was none
    ("observation_age_s", "<f8"),  # age of what the chunk was inferred from; NaN without a chunk
    ("sequence", "<u8"),  # the command's number within its session
    ("acknowledged", "<u8"),  # the newest command that the robot had accepted
    ("phase", "<i4"),  # of the control loop
    ("chunk", "<i8"),  # index of the chunk; -1 for none
    ("row", "<i4"),  # row of the chunk, the last one reached; -1 for none
    ("speed", "<f4"),  # share of their speed at which chunks are executed, by the robot's own too
)


def tick_rows(state_dim: int, action_dim: int) -> np.dtype[np.void]:
    """Returns the fields of a tick in lockstep."""
    own: list[Any] = [
        ("state", "<f4", (state_dim,)),  # read before the command
        ("command", "<f4", (action_dim,)),  # as sent
        *_SHARED_FIELDS,
        ("requested", "?"),  # whether a chunk was requested at this tick
    ]
    return np.dtype(own)


def realtime_rows(state_dim: int, action_dim: int, num_cameras: int) -> np.dtype[np.void]:
    """Returns the fields of a tick in real time; they include those of a tick in lockstep."""
    own: list[Any] = [
        *tick_rows(state_dim, action_dim).descr,
        *_REALTIME_FIELDS,
        ("frame_age_s", "<f8", (num_cameras,)),  # age of each camera's newest frame
    ]
    return np.dtype(own)


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened at a moment of a run: a fault, a hold, a message of the driver.

    Attributes:
        time_s: since the episode's first tick was due.
        name: which kind, such as `state_stale`; docs/safety.md lists the faults.
        what: whether a hold begins, ends, or neither.
        subject: the joint or camera concerned; '' if it concerns none.
        value: what was found, None if it is not a number.
        limit: what was allowed, likewise.
        text: further words, such as a driver's message.
    """

    time_s: float
    name: str
    what: Literal["begin", "end", "note"] = "note"
    subject: str = ""
    value: float | None = None
    limit: float | None = None
    text: str = ""

    def as_data(self) -> dict[str, object]:
        """Returns the event as `--json` prints it."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class InferenceTimes:
    """The times of one inference.

    Attributes:
        time_s: when it began, since the episode's first tick was due.
        duration_s: observing, encoding and inferring together.
        state_age_s: age of the state when the newest data had been taken for the inference.
        frame_ages_s: the same for each camera.
    """

    time_s: float
    duration_s: float
    state_age_s: float
    frame_ages_s: Mapping[str, float] = field(default_factory=dict[str, float])

    def as_data(self) -> dict[str, object]:
        """Returns the times as plain data."""
        return asdict(self)


class EpisodeLog(Protocol):
    """Receives what happens in an episode, as it happens."""

    def add_rows(self, rows: Rows) -> None:
        """Receives the next ticks."""
        ...

    def add_event(self, event: Event) -> None:
        """Receives an event."""
        ...

    def add_inference(self, times: InferenceTimes) -> None:
        """Receives the times of an inference that has ended."""
        ...


class EpisodeLogs:
    """Several logs as one."""

    def __init__(self, *logs: EpisodeLog) -> None:
        self._logs = logs

    def add_rows(self, rows: Rows) -> None:
        """Passes on the next ticks."""
        for log in self._logs:
            log.add_rows(rows)

    def add_event(self, event: Event) -> None:
        """Passes on an event."""
        for log in self._logs:
            log.add_event(event)

    def add_inference(self, times: InferenceTimes) -> None:
        """Passes on the times of an inference."""
        for log in self._logs:
            log.add_inference(times)


@dataclass(frozen=True, kw_only=True)
class ChunkInputs:
    """What a chunk was made from. Nobody changes the arrays any more.

    Attributes:
        request: of the control loop, as plain data; `index` is the chunk's number in its episode.
        observation: with the cameras' images as they were captured.
        observed_ns: the oldest capture time, in real time.
        encoded: the network's inputs; empty without a network.
        base: (A,) float32, the state that relative actions are relative to.
        noise: the network's noise; None without a network.
        rows: (H, A) float32, the finished chunk of a source without a network.
    """

    request: Mapping[str, int]
    observation: Observation
    observed_ns: int = 0
    encoded: Mapping[str, NDArray[Any]] = field(default_factory=dict[str, "NDArray[Any]"])
    base: NDArray[np.float32] | None = None
    noise: NDArray[np.float32] | None = None
    rows: NDArray[np.float32] | None = None


class ReplayLog(Protocol):
    """Receives all that the control loop takes from outside, so that it can run again.

    Nothing here waits in real time, and nothing raises: what cannot be recorded is counted.
    """

    def add_start(self, start: Mapping[str, object]) -> None:
        """Receives what the loop was started with."""
        ...

    def add_ticks(self, ticks: Rows) -> None:
        """Receives the next ticks: in lockstep as for an `EpisodeLog`, in real time as the control
        thread recorded them."""
        ...

    def add_loop_events(self, events: Sequence[Mapping[str, object]]) -> None:
        """Receives the control thread's next events."""
        ...

    def add_chunk(self, inputs: ChunkInputs) -> None:
        """Receives what a chunk is about to be made from; called on the inference thread."""
        ...

    def add_answer(
        self, request: Mapping[str, int], actions: NDArray[np.float32] | None, failure: str = ""
    ) -> None:
        """Receives a chunk, (H, A), or why there is none; likewise."""
        ...

    def note_dropped(self, what: str, count: int) -> None:
        """Receives how much was lost before it came here."""
        ...
