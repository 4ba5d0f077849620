"""A file that is only appended to, so that whatever stops the process leaves all that was written.

    magic, record, record, ...        record = kind, length, CRC-32, payload

The first record is the header. A record that was cut off by a crash fails its length or its CRC,
and reading ends before it. In every format but the oldest, `MAGIC`, the CRC covers the kind too.
"""

from __future__ import annotations

import json
import os
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from flux_core.errors import DataError

MAGIC = b"FLUXEP01"
"""The last two characters are the version of the format."""
SYNC_EVERY_S = 0.5
_FRAME = struct.Struct("<BII")
_JOINED_BYTES = 1 << 16
HEADER, ROWS, EVENT, INFERENCE, END = range(5)
"""The kinds of records: JSON, except for rows, which are a numpy array as it lies in memory."""


class StreamWriter:
    """Appends records. A record is with the operating system when `append` returns.

    It thus survives the end of the process. A thread asks for it to be on the disk within a
    second, so that it also survives the end of the machine; `append` does not wait for that.
    """

    def __init__(self, path: Path, header: Mapping[str, object], magic: bytes = MAGIC) -> None:
        """Creates the file, which must not exist, with its header."""
        self.path = path
        self._magic = magic
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._is_ending = threading.Event()
        self._fault: OSError | None = None
        self._write(magic)
        self.append_json(HEADER, header)
        self._sync_thread = threading.Thread(
            target=self._keep_syncing, name="flux-recording", daemon=True
        )
        self._sync_thread.start()

    def append(self, kind: int, *parts: bytes | memoryview) -> None:
        """Appends a record, whose payload is all the parts together.

        Raises:
            DataError: the file cannot be written, for example because the disk is full.
        """
        length, checksum = 0, _first_checksum(self._magic, kind)
        for part in parts:
            length += memoryview(part).nbytes
            checksum = zlib.crc32(part, checksum)
        pending = bytearray(_FRAME.pack(kind, length, checksum))
        for part in parts:
            if memoryview(part).nbytes > _JOINED_BYTES:  # not copied
                self._write(pending)
                self._write(part)
                pending = bytearray()
            else:
                pending += part
        self._write(pending)

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

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        rest = memoryview(data).cast("B")
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
        kept = "What it holds until then is kept; read it with flux_runtime.read_recording. "
        if self._magic != MAGIC:
            kept = "It cannot be replayed. "
        return DataError(
            f"{self.path}: cannot be written ({error.strerror}). {kept}Make room on the disk, or "
            f"record to another directory."
        )


def _first_checksum(magic: bytes, kind: int) -> int:
    """Returns the CRC before the payload. With the kind, zeros at the end, as a machine that loses
    power may leave them, are no record."""
    return 0 if magic == MAGIC else zlib.crc32(bytes((kind,)))


def read_stream(path: Path) -> tuple[dict[str, object], Iterator[tuple[int, bytes]]]:
    """Returns the header and the other records (kind, payload), without one that was cut off.

    The records are read one by one, because the stream of a long episode is large.

    Raises:
        DataError: the file is not of this format, or even its header was cut off.
    """
    reader = StreamReader(path)
    header = reader.read_header()
    return header, ((record.kind, record.payload) for record in reader.records())


@dataclass(frozen=True, kw_only=True)
class StreamRecord:
    """A record, and where in the file it begins."""

    kind: int
    payload: bytes
    offset: int


class StreamReader:
    """Reads a stream from its beginning, record by record.

    Attributes:
        offset: bytes read so far, up to the end of the last whole record.
        is_damaged: whether the record after it has a wrong checksum.
    """

    def __init__(self, path: Path, magic: bytes = MAGIC) -> None:
        self.path = path
        self.offset = 0
        self.is_damaged = False
        self._magic = magic

    def read_header(self) -> dict[str, object]:
        """Returns the header.

        Raises:
            DataError: the file is not of this format, or even its header was cut off.
        """
        record = next(self.records(), None)
        if record is None or record.kind != HEADER:
            end = "whose header is damaged" if self.is_damaged else "that ends within its header"
            raise DataError(f"{self.path}: expected a recording, got one {end}.")
        return json.loads(record.payload)

    def records(self) -> Iterator[StreamRecord]:
        """Yields the records from `offset` on, without one that was cut off or damaged.

        Raises:
            DataError: the file is not of this format.
        """
        with self.path.open("rb") as file:
            if self.offset == 0:
                self._check_magic(file.read(len(self._magic)))
            file.seek(self.offset)
            while len(frame := file.read(_FRAME.size)) == _FRAME.size:
                kind, length, checksum = _FRAME.unpack(frame)
                payload = file.read(length)
                if len(payload) != length:
                    return
                if zlib.crc32(payload, _first_checksum(self._magic, kind)) != checksum:
                    self.is_damaged = True
                    return
                record = StreamRecord(kind=kind, payload=payload, offset=self.offset)
                self.offset += _FRAME.size + length
                yield record

    def record_at(self, offset: int) -> StreamRecord:
        """Returns the record that begins at an offset that `records` has given."""
        with self.path.open("rb") as file:
            file.seek(offset)
            kind, length, _ = _FRAME.unpack(file.read(_FRAME.size))
            return StreamRecord(kind=kind, payload=file.read(length), offset=offset)

    def _check_magic(self, found: bytes) -> None:
        if found != self._magic:
            raise DataError(
                f"{self.path}: expected a recording of flux-runtime, which begins with "
                f"{self._magic.decode()}, got {found!r}."
            )
        self.offset = len(self._magic)
