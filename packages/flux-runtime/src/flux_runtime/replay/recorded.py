"""Reads an episode's replay file, and refuses one from which something is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError
from flux_core.types import Observation

from ..run.replay_file import (
    COUNTS_KEY,
    REPLAY_MAGIC,
    RecordKind,
    UnpackedRecord,
    dtype_of,
    read_data,
    unpack,
)
from ..run.stream import StreamReader

BATCH_TICKS = 200
"""Ticks that run before they are compared; fewer than the control thread's rings hold."""


@dataclass(frozen=True, kw_only=True)
class RecordedChunk:
    """What a chunk was made from, and the chunk.

    Attributes:
        request: of the control loop.
        observation: as it was captured.
        observed_ns: the oldest capture time, in real time.
        base: (A,), the state that relative actions are relative to; None without a network.
        noise: of the network; None likewise.
        rows: (H, A), the finished chunk of a source without a network.
        encoded: small inputs of the network; `digests` has the SHA-256 of the others.
        actions: (H, A), what the network answered; None if that is not known.
    """

    request: dict[str, int]
    observation: Observation
    observed_ns: int
    base: NDArray[np.float32] | None
    noise: NDArray[np.float32] | None
    rows: NDArray[np.float32] | None
    encoded: Mapping[str, NDArray[Any]]
    digests: Mapping[str, str]
    actions: NDArray[np.float32] | None


@dataclass(kw_only=True)
class RecordedReplay:
    """A whole recording; frames and ticks are read when they are needed.

    Attributes:
        path: the file.
        header: what the run was made with.
        starts: what the control loop was started with: once, and after each pause.
        events: of the control thread.
        end: how the episode ended.
        num_ticks: recorded ticks.
        requests: key -> request of each chunk whose inputs are known. The key is the request's
            ticket in real time, and its index in lockstep.
    """

    path: Path
    header: dict[str, Any]
    starts: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    end: dict[str, Any] = field(default_factory=dict[str, Any])
    num_ticks: int = 0
    requests: dict[int, dict[str, int]] = field(default_factory=dict[int, dict[str, int]])
    _reader: StreamReader
    _tick_dtype: np.dtype[np.void] | None = None
    _ticks: list[int] = field(default_factory=list[int])
    _chunks: dict[int, int] = field(default_factory=dict[int, int])
    _answers: dict[int, int] = field(default_factory=dict[int, int])

    @property
    def is_realtime(self) -> bool:
        """Whether it was recorded in real time."""
        return self.header["clock"] == "monotonic"

    @property
    def start(self) -> dict[str, Any]:
        """What the control loop was started with at first."""
        return self.starts[0]

    def session_ticks(self, session: int) -> Iterator[NDArray[np.void]]:
        """Yields the ticks of a session of the control thread, likewise."""
        for ticks in self.ticks():
            found = ticks[ticks["session"] == session]
            if len(found):
                yield found

    def ticks(self) -> Iterator[NDArray[np.void]]:
        """Yields the ticks in batches of about `BATCH_TICKS`."""
        waiting: list[NDArray[np.void]] = []
        for offset in self._ticks:
            found = self.ticks_in(self._reader.record_at(offset).payload)
            waiting += [found[i : i + BATCH_TICKS] for i in range(0, len(found), BATCH_TICKS)]
            if sum(map(len, waiting)) >= BATCH_TICKS:
                yield np.concatenate(waiting)
                waiting = []
        if waiting:
            yield np.concatenate(waiting)

    def ticks_in(self, payload: bytes) -> NDArray[np.void]:
        """Returns the ticks of a record; the first one in the file has their type."""
        found = unpack(payload)
        if "dtype" in found.data:
            self._tick_dtype = dtype_of(found.data["dtype"])
        if self._tick_dtype is None:
            raise DataError(
                f"{self.path}: expected the first ticks with their type, got others. The recording "
                f"is incomplete and cannot be replayed."
            )
        return found.arrays["ticks"].reshape(-1).view(self._tick_dtype)

    def chunk(self, key: int) -> RecordedChunk:
        """Returns the chunk of a key in `requests`."""
        found = unpack(self._reader.record_at(self._chunks[key]).payload)
        answer: UnpackedRecord | None = None
        if key in self._answers:
            answer = unpack(self._reader.record_at(self._answers[key]).payload)
        data, arrays = found.data, found.arrays
        observation = Observation(
            images=_named(arrays, "image/"),
            state=arrays["state"],
            prompt=data["prompt"],
            timestamp_s=data["timestamp_s"],
        )
        return RecordedChunk(
            request=data["request"],
            observation=observation,
            observed_ns=data["observed_ns"],
            base=arrays.get("base"),
            noise=arrays.get("noise"),
            rows=arrays.get("rows"),
            encoded=_named(arrays, "encoded/"),
            digests=_named(found.digests, "encoded/"),
            actions=answer.arrays.get("actions") if answer else None,
        )


def read_replay(path: Path) -> RecordedReplay:
    """Reads a recording and checks that nothing is missing.

    Raises:
        DataError: it is not a recording, or not a whole one; the message says what is missing.
        OSError: the file cannot be read.
    """
    reader = StreamReader(path, REPLAY_MAGIC)
    recorded = RecordedReplay(path=path, header=reader.read_header(), _reader=reader)
    dropped: list[dict[str, Any]] = []
    last_ticks: NDArray[np.void] | None = None
    found: Counter[int] = Counter()
    for record in reader.records():
        found[record.kind] += 1
        match record.kind:
            case RecordKind.TICKS:
                last_ticks = recorded.ticks_in(record.payload)
                recorded.num_ticks += len(last_ticks)
                recorded._ticks.append(record.offset)
            case RecordKind.DROPPED:
                dropped.append(read_data(record.payload))
            case _:
                _take_in(recorded, record.kind, record.payload, record.offset)
    _refuse_cut_off(recorded, reader, last_ticks)
    _refuse_dropped(path, dropped)
    _refuse_removed(recorded, found)
    _refuse_missing(recorded)
    return recorded


def _take_in(recorded: RecordedReplay, kind: int, payload: bytes, offset: int) -> None:
    data = read_data(payload)
    match kind:
        case RecordKind.START:
            recorded.starts.append(data["start"])
        case RecordKind.EVENTS:
            recorded.events += data["events"]
        case RecordKind.CHUNK:
            key = _key(data["request"])
            recorded.requests[key] = data["request"]
            recorded._chunks[key] = offset
        case RecordKind.ANSWER:
            recorded._answers[_key(data["request"])] = offset
        case RecordKind.END:
            recorded.end = data
        case _:
            raise DataError(
                f"{recorded.path}: expected records of this version of flux, got one of kind "
                f"{kind}. Replay it with the version that recorded it."
            )


def _refuse_cut_off(
    recorded: RecordedReplay, reader: StreamReader, last_ticks: NDArray[np.void] | None
) -> None:
    size = recorded.path.stat().st_size
    if recorded.end and reader.offset == size and not reader.is_damaged:
        return
    count = recorded.num_ticks
    until = f"{count} ticks" if last_ticks is None else f"tick {count - 1}"
    if last_ticks is not None and "timestamp_s" in (last_ticks.dtype.names or ()):
        until += f" ({last_ticks['timestamp_s'][-1]:.2f} s)"
    if reader.is_damaged or (recorded.end and reader.offset != size):
        what = f"got one that is damaged at byte {reader.offset}, after {until}"
    else:
        what = (
            f"got one that was cut off after {until}, because its process was killed or the disk "
            f"was full, or that is still being written"
        )
    raise DataError(
        f"{recorded.path}: expected a whole recording, {what}. It cannot be replayed; record "
        f"another run."
    )


def _refuse_dropped(path: Path, dropped: Sequence[Mapping[str, Any]]) -> None:
    if not dropped:
        return
    losses: dict[str, dict[str, Any]] = {}
    for loss in dropped:
        total = losses.setdefault(loss["what"], {"count": 0, "first": loss["first"]})
        total["count"] += loss["count"]
        total["last"] = loss["last"]
    places = [
        f"{loss['count']} {what}" + (f" ({_range(loss)})" if loss["first"] else "")
        for what, loss in losses.items()
    ]
    raise DataError(
        f"{path}: expected a whole recording, got one from which records were dropped because the "
        f"disk was too slow: {', '.join(places)}. It cannot be replayed; record to a faster disk."
    )


def _refuse_removed(recorded: RecordedReplay, found: Mapping[int, int]) -> None:
    """Refuses a recording without all the records that its end counts."""
    counts: Mapping[str, int] = recorded.end.get(COUNTS_KEY, {})
    for name, count in counts.items():
        if found.get(RecordKind[name], 0) < count:
            raise DataError(
                f"{recorded.path}: expected a whole recording with {count} records of the kind "
                f"{name}, got {found.get(RecordKind[name], 0)}. It cannot be replayed; record "
                f"another run."
            )


def _range(loss: Mapping[str, Any]) -> str:
    first, last = loss["first"], loss["last"]
    return str(first) if first == last else f"{first} to {last}"


def _refuse_missing(recorded: RecordedReplay) -> None:
    path = recorded.path
    if not recorded.starts:
        reason = recorded.end.get("reason") or "no reason is known"
        raise DataError(
            f"{path}: expected a recorded session, got one that never started ({reason}). There is "
            f"nothing to replay."
        )
    known = {request["index"] for request in recorded.requests.values()}
    for ticks in recorded.ticks():
        if "chunk" not in (ticks.dtype.names or ()):
            return
        missing = sorted(set(ticks["chunk"].tolist()) - known - {-1})
        if missing:
            raise DataError(
                f"{path}: expected what chunk {missing[0]} was made from, got no record of it. The "
                f"recording is incomplete and cannot be replayed."
            )


def _key(request: Mapping[str, int]) -> int:
    return request.get("ticket", request["index"])


def _named(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): value
        for name, value in values.items()
        if name.startswith(prefix)
    }


def recordings_in(directory: Path) -> list[Path]:
    """Returns the replay files of a directory, in the order of the episodes; or the file itself.

    Raises:
        DataError: there is none.
    """
    if directory.is_file():
        return [directory]
    found = sorted(directory.glob("episode_*.replay"))
    if not found:
        raise DataError(
            f"{directory}: expected episode_*.replay, as 'flux-runtime run --record' writes them, "
            f"got none. Name the directory of a recording."
        )
    return found
