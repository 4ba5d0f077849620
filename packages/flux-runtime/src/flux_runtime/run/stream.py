"""A file that is only appended to, so that whatever stops the process leaves all that was written.

    magic, record, record, ...        record = kind, length, CRC-32, payload

The first record is the header. A record that was cut off by a crash fails its length or its CRC,
and reading ends before it.
"""

from __future__ import annotations

import json
import os
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from flux_core.errors import DataError

MAGIC = b"FLUXEP01"
"""The last two characters are the version of the format."""
SYNC_EVERY_S = 0.5
_FRAME = struct.Struct("<BII")
HEADER, ROWS, EVENT, INFERENCE, END = range(5)
"""The kinds of records: JSON, except for rows, which are a numpy array as it lies in memory."""


class StreamWriter:
    """Appends records. A record is with the operating system when `append` returns.

    It thus survives the end of the process. A thread asks for it to be on the disk within a
    second, so that it also survives the end of the machine; `append` does not wait for that.
    """

    def __init__(self, path: Path, header: Mapping[str, object]) -> None:
        """Creates the file, which must not exist, with its header."""
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._is_ending = threading.Event()
        self._fault: OSError | None = None
        self._write(MAGIC)
        self.append_json(HEADER, header)
        self._sync_thread = threading.Thread(
            target=self._keep_syncing, name="flux-recording", daemon=True
        )
        self._sync_thread.start()

    def append(self, kind: int, payload: bytes) -> None:
        """Appends a record.

        Raises:
            DataError: the file cannot be written, for example because the disk is full.
        """
        self._write(_FRAME.pack(kind, len(payload), zlib.crc32(payload)) + payload)

    def append_json(self, kind: int, value: Mapping[str, object]) -> None:
        """Appends a record of plain data."""
        self.append(kind, json.dumps(value, ensure_ascii=False).encode())

    def close(self) -> None:
        """Waits until everything is on the disk, and closes the file."""
        self._is_ending.set()
        self._sync_thread.join()
        try:
            os.fsync(self._file)
        except OSError as error:
            raise self._refusal(error) from error
        finally:
            os.close(self._file)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            if self._fault is not None:
                raise self._fault
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            self._fault = error  # What follows a record that is cut off could not be read.
            raise self._refusal(error) from error

    def _keep_syncing(self) -> None:
        while not self._is_ending.wait(SYNC_EVERY_S):
            try:
                os.fdatasync(self._file)
            except OSError as error:
                self._fault = error  # raised by the next append
                return

    def _refusal(self, error: OSError) -> DataError:
        return DataError(
            f"{self.path}: cannot be written ({error.strerror}). What it holds until then is kept; "
            f"read it with flux_runtime.read_recording. Make room on the disk, or record to "
            f"another directory."
        )


def read_stream(path: Path) -> tuple[dict[str, object], Iterator[tuple[int, bytes]]]:
    """Returns the header and the other records (kind, payload), without one that was cut off.

    The records are read one by one, because the stream of a long episode is large.

    Raises:
        DataError: the file is not of this format, or even its header was cut off.
    """
    records = _records(path)
    kind, payload = next(records, (None, b""))
    if kind != HEADER:
        raise DataError(f"{path}: expected a recording, got one that ends within its header.")
    return json.loads(payload), records


def _records(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        if (magic := file.read(len(MAGIC))) != MAGIC:
            raise DataError(
                f"{path}: expected a recording of flux-runtime, which begins with "
                f"{MAGIC.decode()}, got {magic!r}."
            )
        while len(frame := file.read(_FRAME.size)) == _FRAME.size:
            kind, length, checksum = _FRAME.unpack(frame)
            payload = file.read(length)
            if len(payload) != length or zlib.crc32(payload) != checksum:
                return
            yield kind, payload
