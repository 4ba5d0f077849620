"""Compares the ticks of a replay with the recorded ones, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..run.replay_file import digest_of
from .recorded import RecordedChunk

OUTPUTS = ("command", "flags", "phase", "chunk", "row", "sequence", "observed_ns", "tick_ns")
"""What a control core decides at a tick, as far as a tick of the run has it."""
LOCKSTEP_OUTPUTS = ("command", "flags", "requested")
_FIGURES = ("value", "limit")


@dataclass(frozen=True, kw_only=True)
class FirstDifference:
    """The first tick whose outputs are different, or at which one of both has ended.

    Attributes:
        tick: its number, from 0.
        time_s: since the first tick was due.
        what: the output, with the joint of a command.
        recorded, replayed: both values.
    """

    tick: int
    time_s: float
    what: str
    recorded: str
    replayed: str

    def text(self) -> str:
        """Returns one line."""
        return (
            f"tick {self.tick} ({self.time_s:.3f} s): {self.what}: recorded {self.recorded}, "
            f"replayed {self.replayed}"
        )


@dataclass(frozen=True, kw_only=True)
class LargestDifference:
    """The largest difference of a joint's commands, in the joint's unit, and when."""

    joint: str
    value: float
    tick: int
    time_s: float


@dataclass(kw_only=True)
class EpisodeComparison:
    """What is different in the replay of an episode.

    Attributes:
        joint_names: the order of commands.
        num_ticks: compared ticks.
        num_different: of them, those with a different output.
        first: the first difference; None if there is none.
        num_chunks: compared chunks, of which `different_chunks` are different.
        largest_chunk_difference: of an action in robot units.
        other_inputs: input of the network -> the first chunk for which it is different.
        other_decoder: arrays between the network's actions and robot units that are different.
        failures: chunk -> why it could not be inferred here.
        events: whether the control thread reported the same events; 'other figures' if only their
            values are different.
    """

    joint_names: Sequence[str]
    num_ticks: int = 0
    num_different: int = 0
    first: FirstDifference | None = None
    num_chunks: int = 0
    different_chunks: list[int] = field(default_factory=list[int])
    largest_chunk_difference: float = 0.0
    other_inputs: dict[str, int] = field(default_factory=dict[str, int])
    other_decoder: list[str] = field(default_factory=list[str])
    failures: dict[int, str] = field(default_factory=dict[int, str])
    events: Literal["identical", "other figures", "different"] = "identical"
    _largest: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    _when: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])

    def __post_init__(self) -> None:
        self._largest = np.zeros(len(self.joint_names))
        self._when = [(0, 0.0)] * len(self.joint_names)

    @property
    def is_identical(self) -> bool:
        """Whether every command and every decision was the same."""
        return self.first is None and self.events == "identical"

    def add_ticks(
        self,
        recorded: NDArray[np.void],
        replayed: NDArray[np.void],
        times_s: NDArray[np.float64],
        outputs: Sequence[str],
    ) -> None:
        """Compares the next ticks; both arrays have the same length."""
        before = self.num_ticks
        self.num_ticks += len(recorded)
        different = np.zeros(len(recorded), bool)
        for name in outputs:
            different |= _differs(recorded[name], replayed[name])
        self.num_different += int(different.sum())
        if self.first is None and different.any():
            self.first = self._first(recorded, replayed, times_s, outputs, int(different.argmax()))
        self._add_largest(recorded["command"], replayed["command"], before, times_s)

    def end_early(self, time_s: float, phase: str) -> None:
        """Notes that the replay ended before the recording did."""
        if self.first is None:
            self.first = FirstDifference(
                tick=self.num_ticks,
                time_s=time_s,
                what="the session",
                recorded="goes on",
                replayed=phase,
            )

    def add_decoder(self, recorded: Mapping[str, str], now: Mapping[str, str]) -> None:
        """Compares the digests of the arrays that turn actions into robot units."""
        names = sorted(recorded.keys() | now.keys())
        self.other_decoder = [name for name in names if recorded.get(name) != now.get(name)]

    def add_inputs(self, chunk: RecordedChunk, encoded: Mapping[str, NDArray[Any]]) -> None:
        """Compares the network's inputs for a chunk; those that a server made are not known."""
        if not chunk.encoded and not chunk.digests:
            return
        for name, array in encoded.items():
            if name in chunk.digests:
                is_same = digest_of(array) == chunk.digests[name]
            else:
                known = chunk.encoded.get(name)
                is_same = known is not None and known.tobytes() == array.tobytes()
            if not is_same:
                self.other_inputs.setdefault(name, chunk.request["index"])

    def add_chunk(self, chunk: RecordedChunk, actions: NDArray[np.float32]) -> None:
        """Compares a chunk with the recorded one, if that is known."""
        if chunk.actions is None:
            return
        self.num_chunks += 1
        if chunk.actions.tobytes() == actions.tobytes():
            return
        self.different_chunks.append(chunk.request["index"])
        if chunk.actions.shape == actions.shape:
            gap = _distance(chunk.actions, actions).max()
            self.largest_chunk_difference = max(self.largest_chunk_difference, float(gap))

    def add_events(
        self, recorded: Sequence[Mapping[str, Any]], replayed: Sequence[Mapping[str, Any]]
    ) -> None:
        """Compares all events of the control thread."""
        if _as_texts(recorded, ()) == _as_texts(replayed, ()):
            self.events = "identical"
        elif _as_texts(recorded, _FIGURES) == _as_texts(replayed, _FIGURES):
            self.events = "other figures"
        else:
            self.events = "different"

    def largest(self) -> list[LargestDifference]:
        """Returns the largest difference of each joint."""
        return [
            LargestDifference(joint=name, value=float(value), tick=tick, time_s=time_s)
            for name, value, (tick, time_s) in zip(
                self.joint_names, self._largest, self._when, strict=True
            )
        ]

    def as_data(self) -> dict[str, object]:
        """Returns the comparison as `--json` prints it."""
        return {
            "identical": self.is_identical,
            "ticks": self.num_ticks,
            "different_ticks": self.num_different,
            "first_difference": vars(self.first) if self.first else None,
            "largest_difference": [vars(entry) for entry in self.largest()],
            "events": self.events,
            "chunks": self.num_chunks,
            "different_chunks": len(self.different_chunks),
            "first_different_chunk": self.different_chunks[0] if self.different_chunks else None,
            "largest_chunk_difference": self.largest_chunk_difference,
            "other_inputs": self.other_inputs,
            "other_decoder": self.other_decoder,
            "failures": {str(index): text for index, text in self.failures.items()},
        }

    def _first(
        self,
        recorded: NDArray[np.void],
        replayed: NDArray[np.void],
        times_s: NDArray[np.float64],
        outputs: Sequence[str],
        row: int,
    ) -> FirstDifference:
        name = next(
            name
            for name in outputs
            if _differs(recorded[name][row : row + 1], replayed[name][row : row + 1]).any()
        )
        values = recorded[name][row], replayed[name][row]
        what = name
        if name == "command":
            joint = int((_bits(values[0]) != _bits(values[1])).argmax())
            what = f"command of joint {self.joint_names[joint]}"
            values = values[0][joint], values[1][joint]
        return FirstDifference(
            tick=self.num_ticks - len(recorded) + row,
            time_s=float(times_s[row]),
            what=what,
            recorded=str(values[0]),
            replayed=str(values[1]),
        )

    def _add_largest(
        self,
        recorded: NDArray[np.float32],
        replayed: NDArray[np.float32],
        before: int,
        times_s: NDArray[np.float64],
    ) -> None:
        if not len(recorded):
            return
        distances = _distance(recorded, replayed)
        rows = distances.argmax(axis=0)
        for joint, row in enumerate(rows.tolist()):
            if distances[row, joint] > self._largest[joint]:
                self._largest[joint] = distances[row, joint]
                self._when[joint] = (before + row, float(times_s[row]))


def _as_texts(events: Sequence[Mapping[str, Any]], without: Collection[str]) -> list[str]:
    """Returns events as text, because a value may be NaN, which does not equal itself."""
    return [
        json.dumps({name: value for name, value in event.items() if name not in without})
        for event in events
    ]


def _bits(values: NDArray[Any]) -> NDArray[Any]:
    """Returns values that are equal if, and only if, all bits are: NaN equals itself, -0 not 0."""
    return values.view(np.uint32) if values.dtype == np.float32 else values


def _differs(recorded: NDArray[Any], replayed: NDArray[Any]) -> NDArray[np.bool_]:
    """Returns for each tick whether the values differ."""
    found = _bits(np.ascontiguousarray(recorded)) != _bits(np.ascontiguousarray(replayed))
    return found.any(axis=tuple(range(1, found.ndim)))


def _distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns the distances; infinite where only one value is a number."""
    same = _bits(np.ascontiguousarray(a)) == _bits(np.ascontiguousarray(b))
    with np.errstate(invalid="ignore"):
        distance = np.abs(a.astype(np.float64) - b.astype(np.float64))
    return np.where(same, 0.0, np.where(np.isnan(distance), np.inf, distance))
