"""The form of an episode's `.replay`: what its control loop was given, so that it can run again.

A stream of records, as `stream` describes it. A record is plain data and named arrays:

    length of the data, the data as JSON, array, array, ...

Array forms: `stored` as it lies in memory, `zlib` compressed, `sha256` only its digest.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

REPLAY_SUFFIX = ".replay"
REPLAY_MAGIC = b"FLUXRP01"
"""The last two characters are the version of the format."""
COUNTS_KEY = "records"
"""In the data of `END`: how many records of which kind come before it."""
COMPRESSION_LEVEL = 1
_COMPRESSED_FROM_BYTES = 1 << 14
_LENGTH = struct.Struct("<I")

Arrays = Mapping[str, NDArray[Any]]


class RecordKind(IntEnum):
    """The kinds of records; `HEADER` is that of every stream."""

    HEADER = 0
    START = 1  # what the loop was started with
    TICKS = 2  # rows of bytes; the first such record has their type
    EVENTS = 3  # of the control thread
    CHUNK = 4  # what a chunk was made from
    ANSWER = 5  # the chunk, or why there is none
    DROPPED = 6  # what could not be recorded
    END = 7


@dataclass(frozen=True, kw_only=True)
class ReplayRecord:
    """One record.

    Attributes:
        kind: which one.
        data: plain data.
        arrays: by name; not changed by anybody from now on.
        only_digests: names of arrays of which only the SHA-256 is kept.
    """

    kind: RecordKind
    data: Mapping[str, object]
    arrays: Arrays = field(default_factory=dict[str, "NDArray[Any]"])
    only_digests: Collection[str] = ()

    @property
    def num_bytes(self) -> int:
        """About how much memory it takes."""
        return 1000 + sum(array.nbytes for array in self.arrays.values())


def pack(record: ReplayRecord, *, is_compressed: bool) -> list[bytes | memoryview]:
    """Returns the parts of a record's payload."""
    entries: list[dict[str, object]] = []
    parts: list[bytes | memoryview] = []
    for name, array in record.arrays.items():
        entry: dict[str, object] = {"name": name, "dtype": dtype_data(array.dtype)}
        entry["shape"] = list(array.shape)
        plain = np.ascontiguousarray(array)
        raw = _bytes_of(plain)
        if name in record.only_digests:
            entry |= {"form": "sha256", "sha256": hashlib.sha256(raw).hexdigest()}
        elif is_compressed and plain.nbytes >= _COMPRESSED_FROM_BYTES:
            part = zlib.compress(raw, COMPRESSION_LEVEL)
            entry |= {"form": "zlib", "bytes": len(part)}
            parts.append(part)
        else:
            entry |= {"form": "stored", "bytes": plain.nbytes}
            parts.append(raw)
        entries.append(entry)
    head = json.dumps({**record.data, "arrays": entries}, ensure_ascii=False).encode()
    return [_LENGTH.pack(len(head)) + head, *parts]


@dataclass(frozen=True, kw_only=True)
class UnpackedRecord:
    """A record as it was read.

    Attributes:
        data: plain data.
        arrays: by name, read-only.
        digests: name -> SHA-256 of the arrays of which only that was kept.
    """

    data: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    digests: dict[str, str]


def unpack(payload: bytes) -> UnpackedRecord:
    """Returns the record of a payload."""
    data = read_data(payload)
    offset = _LENGTH.size + _LENGTH.unpack_from(payload)[0]
    arrays: dict[str, NDArray[Any]] = {}
    digests: dict[str, str] = {}
    for entry in data.pop("arrays"):
        if entry["form"] == "sha256":
            digests[entry["name"]] = entry["sha256"]
            continue
        raw = memoryview(payload)[offset : offset + entry["bytes"]]
        offset += entry["bytes"]
        plain = zlib.decompress(raw) if entry["form"] == "zlib" else raw
        dtype = dtype_of(entry["dtype"])
        arrays[entry["name"]] = np.frombuffer(plain, dtype).reshape(entry["shape"])
    return UnpackedRecord(data=data, arrays=arrays, digests=digests)


def read_data(payload: bytes) -> dict[str, Any]:
    """Returns a record's plain data, without looking at its arrays."""
    (length,) = _LENGTH.unpack_from(payload)
    return json.loads(payload[_LENGTH.size : _LENGTH.size + length])


def digest_of(array: NDArray[Any]) -> str:
    """Returns the SHA-256 of an array's values."""
    return hashlib.sha256(_bytes_of(np.ascontiguousarray(array))).hexdigest()


def _bytes_of(array: NDArray[Any]) -> memoryview:
    """Returns the memory of a contiguous array."""
    return array.reshape(-1).view(np.uint8).data if array.nbytes else memoryview(b"")


def dtype_data(dtype: np.dtype[Any]) -> object:
    """Returns a type as plain data; the fields of a record array with their places."""
    if dtype.fields is None:
        return dtype.str
    fields: Any = dtype.fields
    places = [fields[name] for name in dtype.names or ()]
    return {
        "names": list(dtype.names or ()),
        "formats": [[place[0].base.str, list(place[0].shape)] for place in places],
        "offsets": [place[1] for place in places],
        "itemsize": dtype.itemsize,
    }


def dtype_of(data: Any) -> np.dtype[Any]:
    """Returns the type that `dtype_data` describes."""
    if isinstance(data, str):
        return np.dtype(data)
    formats = [(form, tuple(shape)) if shape else form for form, shape in data["formats"]]
    fields: Any = {**data, "formats": formats}
    return np.dtype(fields)
