"""Reads a recorded episode, whether it was finished or its process was killed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError

from .stream import END, EVENT, INFERENCE, ROWS, read_stream

STREAM_SUFFIX = ".stream"
SUMMARY_NAME = "episodes.jsonl"
FACTS_KEY = "facts"
"""In a finished episode: what is known of it besides its arrays, as JSON."""
_NOT_ARRAYS = (FACTS_KEY, "requested")
Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, kw_only=True)
class RecordedEpisode:
    """A recorded episode of T ticks, A joints and S states (usually S = A).

    Attributes:
        robot: its name.
        prompt: the task in words.
        seed: of the episode.
        control_hz: steps of a chunk per second, at full speed.
        command_hz: nominal ticks per second.
        joint_names: the order of `command`.
        state_names: the order of `state`.
        cameras: the order of `frame_age_s` and `inference_frame_age_s`.
        outcome: 'finished', 'interrupted', 'failed', or 'killed' if the process ended first.
        reason: why it ended early; '' if it is not known.
        arrays: `state` (T, S) and `command` (T, A) float32 in robot units; `timestamp_s` (T,)
            float64, when each command left since the first tick was due; `lateness_s` (T,) float64;
            `flags` (T,) int64; `chunk_starts` (C,) int64, the ticks at which a chunk was requested.
            In real time also `sent_s` and `deadline_s` (on the monotonic clock), `state_age_s`,
            `observation_age_s` and `frame_age_s` (T, cameras), `sequence`, `acknowledged`, `phase`,
            `chunk`, `row` and `speed`, one per tick; `event_*`, one per event; `inference_*`, one
            per inference.
    """

    robot: str
    prompt: str
    seed: int
    control_hz: float
    command_hz: float
    joint_names: tuple[str, ...]
    state_names: tuple[str, ...]
    cameras: tuple[str, ...]
    outcome: str
    reason: str
    arrays: Arrays

    @property
    def num_ticks(self) -> int:
        """The number of ticks, T."""
        return len(self.arrays["command"])


def read_recording(path: Path) -> RecordedEpisode:
    """Reads an episode that `flux-runtime run --record` wrote.

    Args:
        path: an `episode_*.npz`, or the `episode_*.stream` that is left if the process was killed.
            All ticks until then are in it, except a last one that was cut off.

    Raises:
        DataError: the file is not a recorded episode.
        OSError: the file cannot be read.
    """
    if path.suffix == STREAM_SUFFIX:
        return episode_of(*read_stream(path))
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
    except ValueError as error:
        raise DataError(f"{path}: expected an episode's .npz or .stream, got {error}") from error
    if not {"state", "command", "timestamp_s"} <= arrays.keys():
        raise DataError(f"{path}: expected a recorded episode, got arrays {', '.join(arrays)}.")
    return _episode(_facts_beside(path, arrays.pop(FACTS_KEY, None)), arrays)


def episode_of(header: Mapping[str, Any], records: Iterable[tuple[int, bytes]]) -> RecordedEpisode:
    """Puts the records of a stream together."""
    row_bytes = bytearray()
    plain: dict[int, list[Any]] = {kind: [] for kind in (EVENT, INFERENCE, END)}
    for kind, payload in records:
        if kind == ROWS:
            row_bytes += payload
        else:
            plain[kind].append(json.loads(payload))
    dtype = np.dtype([(name, form, *map(tuple, shape)) for name, form, *shape in header["rows"]])
    rows = np.frombuffer(row_bytes, dtype)
    arrays: dict[str, NDArray[np.generic]] = {
        name: rows[name] for name in dtype.names or () if name not in _NOT_ARRAYS
    }
    arrays["chunk_starts"] = np.flatnonzero(rows["requested"]).astype(np.int64)
    if "sent_s" in arrays:
        arrays |= _inference_arrays(plain[INFERENCE], header["cameras"])
        arrays |= _event_arrays(plain[EVENT])
        starts = np.searchsorted(rows["timestamp_s"], arrays["inference_time_s"])
        arrays["chunk_starts"] = starts.astype(np.int64)
    end = plain[END][-1] if plain[END] else {}
    return _episode({**header, "outcome": "killed", "reason": ""} | end, arrays)


def facts_of(episode: RecordedEpisode) -> dict[str, object]:
    """Returns everything but the arrays, as plain data."""
    names = RecordedEpisode.__dataclass_fields__.keys() - {"arrays"}
    return {name: getattr(episode, name) for name in sorted(names)}


def _episode(facts: Mapping[str, Any], arrays: Arrays) -> RecordedEpisode:
    texts = {name: tuple(facts[name]) for name in ("joint_names", "state_names", "cameras")}
    plain = {name: facts[name] for name in ("robot", "prompt", "seed", "control_hz", "outcome")}
    plain["command_hz"] = facts.get("command_hz", facts["control_hz"])  # older ones lack it
    return RecordedEpisode(**texts, **plain, reason=facts["reason"] or "", arrays=arrays)


def _facts_beside(path: Path, facts: NDArray[Any] | None) -> dict[str, Any]:
    """Returns the facts in a file; those of an older file are in the line of its episode."""
    if facts is not None:
        return json.loads(str(facts))
    unknown = {"robot": "", "prompt": "", "seed": 0, "control_hz": 0.0, "joint_names": ()}
    unknown |= {"state_names": (), "cameras": (), "outcome": "finished", "reason": ""}
    summary = path.with_name(SUMMARY_NAME)
    lines = summary.read_text(encoding="utf-8").splitlines() if summary.is_file() else []
    known = [line for line in map(json.loads, lines) if line.get("file") == path.name]
    return unknown | (known[0] if known else {})


def _inference_arrays(
    inferences: Sequence[Mapping[str, Any]], cameras: Sequence[str]
) -> dict[str, NDArray[np.generic]]:
    ages = [[entry["frame_ages_s"].get(name, np.nan) for name in cameras] for entry in inferences]
    arrays: dict[str, NDArray[np.generic]] = {
        f"inference_{name}": np.array([entry[name] for entry in inferences], np.float64)
        for name in ("time_s", "duration_s", "state_age_s")
    }
    arrays["inference_frame_age_s"] = np.array(ages, np.float64).reshape(len(ages), len(cameras))
    return arrays


def _event_arrays(events: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[np.generic]]:
    arrays: dict[str, NDArray[np.generic]] = {}
    for name in ("time_s", "value", "limit"):
        values = [np.nan if event[name] is None else event[name] for event in events]
        arrays[f"event_{name}"] = np.array(values, np.float64)
    for name in ("name", "what", "subject", "text"):
        arrays[f"event_{name}"] = np.array([event[name] for event in events], np.str_)
    return arrays
