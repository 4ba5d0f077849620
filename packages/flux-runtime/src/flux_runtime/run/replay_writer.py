"""Writes an episode's `.replay` on a thread of its own, so that nobody waits for the disk.

Between the threads lies a queue of bounded size. In real time, what does not fit is dropped, and
the file says so; on simulated time, whoever records waits instead.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, replace

from flux_core.errors import DataError

from .replay_file import COUNTS_KEY, RecordKind, ReplayRecord, pack
from .stream import StreamWriter

QUEUE_BYTES = 128 << 20
"""Frames of three cameras at 640 x 480 for 15 seconds, at three chunks per second."""
RESERVED_BYTES = 16 << 20
"""On top, for what is not a chunk, so that frames do not displace ticks."""
_RESERVED_BYTES = {RecordKind.CHUNK: 0, RecordKind.END: 1 << 40}
COMPRESSED_BELOW = 0.25
"""Of the queue, in real time: if it is fuller, arrays are stored as they are, which is faster."""
WRITER_NICENESS = 10
"""Below the inference, which shares the CPUs."""


@dataclass(kw_only=True)
class DroppedRecords:
    """Records of a kind that were dropped, from the first to the last of them.

    Attributes:
        what: the kind in words.
        count: how many.
        first, last: what is said of the first and of the last one.
    """

    what: str
    count: int
    first: str
    last: str

    def as_data(self) -> dict[str, object]:
        """Returns the record as plain data."""
        return {"what": self.what, "count": self.count, "first": self.first, "last": self.last}


class ReplayWriter:
    """Takes records from any thread, and appends them to a stream.

    Attributes:
        dropped: what -> how many records were dropped since the start.
    """

    def __init__(
        self, stream: StreamWriter, *, is_waiting: bool, queue_bytes: int = QUEUE_BYTES
    ) -> None:
        """Starts the thread.

        Args:
            stream: closed by `close`.
            is_waiting: whether `put` waits for room instead of dropping a record.
            queue_bytes: how much may wait to be written.
        """
        self.dropped: dict[str, int] = {}
        self._stream = stream
        self._is_waiting = is_waiting
        self._queue_bytes = queue_bytes
        self._changed = threading.Condition()
        self._queue: deque[ReplayRecord] = deque()
        self._num_bytes = 0
        self._unwritten: dict[str, DroppedRecords] = {}
        self._is_ending = False
        self._fault: DataError | None = None
        self._written: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, name="flux-replay", daemon=True)
        self._thread.start()

    def put(self, record: ReplayRecord, what: str, which: str = "") -> bool:
        """Hands over a record, without waiting for the disk in real time.

        Args:
            record: to be appended.
            what: what it is, if it must be dropped, such as 'chunks'.
            which: which one it is, such as 'chunk 7'.

        Returns:
            Whether it will be written.
        """
        room = self._queue_bytes + _RESERVED_BYTES.get(record.kind, RESERVED_BYTES)
        with self._changed:
            while self._is_waiting and self._num_bytes and not self._has_room(record, room):
                self._changed.wait()
            if self._is_ending or self._fault is not None:
                return False
            if not self._is_waiting and not self._has_room(record, room):
                self._note(what, 1, which)
                return False
            self._queue.append(record)
            self._num_bytes += record.num_bytes
            self._changed.notify_all()
        return True

    def note_dropped(self, what: str, count: int, which: str = "") -> None:
        """Writes down that something was lost before it came here."""
        with self._changed:
            self._note(what, count, which)
            self._changed.notify_all()

    def raise_if_failed(self) -> None:
        """Raises the DataError that ended the writing, if one has."""
        if self._fault is not None:
            raise self._fault

    def close(self) -> None:
        """Waits until everything is on the disk, and closes the file.

        Raises:
            DataError: something could not be written.
        """
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()
        self._thread.join()
        try:
            self._stream.close()
        finally:
            self.raise_if_failed()

    def _has_room(self, record: ReplayRecord, room: int) -> bool:
        return self._num_bytes + record.num_bytes <= room

    def _note(self, what: str, count: int, which: str) -> None:
        self.dropped[what] = self.dropped.get(what, 0) + count
        found = self._unwritten.get(what)
        if found is None:
            self._unwritten[what] = DroppedRecords(what=what, count=count, first=which, last=which)
        else:
            found.count += count
            found.last = which

    def _run(self) -> None:
        with suppress(OSError):  # of this thread only; a worse niceness is always granted on Linux
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), WRITER_NICENESS)
        while True:
            with self._changed:
                while not self._queue and not self._unwritten and not self._is_ending:
                    self._changed.wait()
                if not self._queue and not self._unwritten:
                    return
                losses, self._unwritten = list(self._unwritten.values()), {}
                record = self._queue.popleft() if self._queue else None
                is_keeping_up = self._num_bytes < COMPRESSED_BELOW * self._queue_bytes
                is_compressed = self._is_waiting or is_keeping_up
            self._write(losses, record, is_compressed)
            with self._changed:
                self._num_bytes -= record.num_bytes if record is not None else 0
                self._changed.notify_all()

    def _write(
        self, losses: list[DroppedRecords], record: ReplayRecord | None, is_compressed: bool
    ) -> None:
        if self._fault is not None:
            return
        try:
            for loss in losses:
                dropped = ReplayRecord(kind=RecordKind.DROPPED, data=loss.as_data())
                self._stream.append(RecordKind.DROPPED, *pack(dropped, is_compressed=False))
            if record is not None:
                if record.kind == RecordKind.END:
                    record = replace(record, data={**record.data, COUNTS_KEY: self._written})
                self._stream.append(record.kind, *pack(record, is_compressed=is_compressed))
                self._written[record.kind.name] += 1
        except DataError as error:
            self._fault = error
        except (MemoryError, ValueError, TypeError) as error:  # else whoever waits would wait on
            self._fault = DataError(f"{self._stream.path}: cannot be written ({error}).")
