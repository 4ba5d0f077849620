"""Records what an episode's control loop takes from outside, in `episode_000000.replay`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..control.episode_log import ChunkInputs, Rows
from .replay_file import REPLAY_MAGIC, RecordKind, ReplayRecord, dtype_data
from .replay_writer import ReplayWriter
from .stream import StreamWriter

DIGEST_FROM_BYTES = 1 << 12
"""Larger inputs of the network are recorded as digests; they follow from the observation."""


class ReplayRecording:
    """One episode on its way to the disk; a `ReplayLog`."""

    def __init__(self, path: Path, header: Mapping[str, object], *, is_realtime: bool) -> None:
        """Creates the file, which must not exist."""
        stream = StreamWriter(path, header, REPLAY_MAGIC)
        self._writer = ReplayWriter(stream, is_waiting=not is_realtime)
        self._has_ticks = False

    @property
    def dropped(self) -> Mapping[str, int]:
        """What could not be recorded -> how many."""
        return self._writer.dropped

    def raise_if_failed(self) -> None:
        """Raises the DataError that ended the writing, if one has."""
        self._writer.raise_if_failed()

    def add_start(self, start: Mapping[str, object]) -> None:
        """Receives what the loop was started with."""
        self._put(RecordKind.START, {"start": start}, {}, "starts")

    def add_ticks(self, ticks: Rows) -> None:
        """Receives the next ticks."""
        if not len(ticks):
            return
        # The type takes more room than a few ticks, so only the first record that is kept has it.
        data = {} if self._has_ticks else {"dtype": dtype_data(ticks.dtype)}
        rows = np.frombuffer(ticks.tobytes(), np.uint8).reshape(len(ticks), ticks.dtype.itemsize)
        record = ReplayRecord(kind=RecordKind.TICKS, data=data, arrays={"ticks": rows})
        if self._writer.put(record, "ticks", f"of {len(ticks)} ticks"):
            self._has_ticks = True

    def add_loop_events(self, events: Sequence[Mapping[str, object]]) -> None:
        """Receives the control thread's next events."""
        if events:
            self._put(RecordKind.EVENTS, {"events": list(events)}, {}, "events")

    def add_chunk(self, inputs: ChunkInputs) -> None:
        """Receives what a chunk is about to be made from."""
        observation = inputs.observation
        arrays: dict[str, NDArray[Any] | None] = {
            "state": observation.state,
            "base": inputs.base,
            "noise": inputs.noise,
            "rows": inputs.rows,
            **{f"image/{name}": image for name, image in observation.images.items()},
            **{f"encoded/{name}": array for name, array in inputs.encoded.items()},
        }
        known = {name: array for name, array in arrays.items() if array is not None}
        large = [
            name
            for name, array in known.items()
            if name.startswith("encoded/") and array.nbytes >= DIGEST_FROM_BYTES
        ]
        data = {
            "request": inputs.request,
            "prompt": observation.prompt,
            "timestamp_s": observation.timestamp_s,
            "observed_ns": inputs.observed_ns,
        }
        which = f"chunk {inputs.request['index']}"
        record = ReplayRecord(kind=RecordKind.CHUNK, data=data, arrays=known, only_digests=large)
        self._writer.put(record, "chunks", which)

    def add_answer(
        self, request: Mapping[str, int], actions: NDArray[np.float32] | None, failure: str = ""
    ) -> None:
        """Receives a chunk, or why there is none."""
        arrays = {} if actions is None else {"actions": actions}
        self._put(RecordKind.ANSWER, {"request": request, "failure": failure}, arrays, "answers")

    def note_dropped(self, what: str, count: int) -> None:
        """Receives how much was lost before it came here."""
        if count:
            self._writer.note_dropped(what, count)

    def finish(self, end: Mapping[str, object]) -> None:
        """Waits until all is on the disk.

        Args:
            end: how the episode ended.

        Raises:
            DataError: something could not be written.
        """
        self._put(RecordKind.END, end, {}, "ends")
        self._writer.close()

    def _put(
        self,
        kind: RecordKind,
        data: Mapping[str, object],
        arrays: Mapping[str, NDArray[Any]],
        what: str,
        which: str = "",
    ) -> None:
        self._writer.put(ReplayRecord(kind=kind, data=data, arrays=arrays), what, which)
