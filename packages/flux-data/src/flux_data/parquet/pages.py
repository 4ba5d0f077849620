"""Decodes what surrounds the values of a parquet page: its header, its levels and indices.

The formats are specified in apache/parquet-format (README, Encodings, `parquet.thrift`), in
apache/thrift (`thrift-compact-protocol`) and in google/snappy (`format_description.txt`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Fetch = Callable[[int, int], bytes]
"""Returns the bytes of a file from one offset to another."""

FRAGMENT = 1 << 16
"""Snappy compresses blocks of this size independently of each other."""

MAX_TAGS = 16
"""Elements per block, on average, up to which a stream is indexed: encoded images have one."""

MAX_HEADER = 1 << 16
"""Bytes; a header holds up to four values of at most 4 KiB as statistics."""

DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = 0, 2, 3
PLAIN, PLAIN_DICTIONARY, RLE, RLE_DICTIONARY = 0, 2, 3, 8

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12


class NotSupported(ValueError):
    """A page that this module cannot take apart; pyarrow reads it."""


@dataclass(frozen=True, kw_only=True)
class Body:
    """The bytes of a page after decompression, read in parts.

    Attributes:
        first: the file's offset of the page's bytes.
        size: how many bytes they are after decompression.
        blocks: the file's offset of each of Snappy's blocks, and of the end; None for bytes that
            are not compressed.
    """

    first: int
    size: int
    blocks: NDArray[np.int64] | None

    def read(self, fetch: Fetch, first: int, last: int) -> bytes:
        """Returns the bytes from `first` to `last`."""
        if not 0 <= first <= last <= self.size:
            raise NotSupported("a value beyond the end of its page")
        if self.blocks is None or first == last:
            return fetch(self.first + first, self.first + last)
        block, end = first // FRAGMENT, -(-last // FRAGMENT)
        begin, size = block * FRAGMENT, min(self.size, end * FRAGMENT) - block * FRAGMENT
        # Whole blocks with a length of their own in front are a stream of their own.
        stream = _to_varint(size) + fetch(int(self.blocks[block]), int(self.blocks[end]))
        data = pa.decompress(stream, size, codec="snappy", asbytes=True)
        return data[first - begin : last - begin]


def snappy_body(fetch: Fetch, first: int, num_bytes: int, size: int) -> Body:
    """Finds the blocks of a Snappy stream without decompressing it.

    Raises:
        NotSupported: the stream is damaged, has elements across blocks, or compresses well, so that
            finding its blocks would take longer than decompressing it.
    """
    end = first + num_bytes
    stated, at = _varint(fetch(first, first + 10), 0)
    if stated != size:
        raise NotSupported("a length other than the page's")
    at, done, tags = first + at, 0, 0
    most = MAX_TAGS * (size // FRAGMENT + 64)
    blocks: list[int] = []
    while at < end:
        tags += 1
        if tags > most:
            raise NotSupported("a stream of many elements")
        if done % FRAGMENT == 0:
            blocks.append(at)
        length, step = _element(fetch(at, at + 5))
        at, done = at + step, done + length
        if done > len(blocks) * FRAGMENT:
            raise NotSupported("an element across blocks")
    if done != size or at != end or len(blocks) != -(-size // FRAGMENT):
        raise NotSupported("a damaged stream")
    return Body(first=first, size=size, blocks=np.asarray([*blocks, end], dtype=np.int64))


def _element(head: bytes) -> tuple[int, int]:
    """Returns how many bytes one element of a Snappy stream makes, and how many it takes."""
    kind, number = head[0] & 3, head[0] >> 2
    if kind:  # copies, with offsets of 1, 2 and 4 bytes
        return (4 + (number & 7), 2) if kind == 1 else (number + 1, 3 if kind == 2 else 5)
    if number < 60:
        return number + 1, number + 2
    width = number - 59
    length = int.from_bytes(head[1 : 1 + width], "little") + 1
    return length, 1 + width + length


def page_header(fetch: Fetch, at: int) -> tuple[dict[int, Any], int]:
    """Returns a page's header, field number -> value, and the offset of the byte after it."""
    fields, used = _struct(fetch(at, at + MAX_HEADER), 0)
    return fields, at + used


def _struct(data: bytes, at: int) -> tuple[dict[int, Any], int]:
    """Reads a structure of Thrift's compact protocol; nested ones become dictionaries."""
    fields: dict[int, Any] = {}
    number = 0
    while head := data[at]:
        kind, at = head & 15, at + 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _zigzag(data, at)
        fields[number], at = _value(data, at, kind)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind in (_TRUE, _FALSE):
        return kind == _TRUE, at
    if kind == _BYTE:
        return data[at], at + 1
    if kind < _DOUBLE:
        return _zigzag(data, at)
    if kind == _DOUBLE:
        return None, at + 8
    if kind == _BINARY:
        length, at = _varint(data, at)
        return data[at : at + length], at + length
    if kind in (_LIST, _SET):
        count, inner, at = data[at] >> 4, data[at] & 15, at + 1
        if count == 15:
            count, at = _varint(data, at)
        values = []
        for _ in range(count):
            value, at = _value(data, at, inner)
            values.append(value)
        return values, at
    if kind == _STRUCT:
        return _struct(data, at)
    raise NotSupported(f"a field of Thrift type {kind}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte, at = data[at], at + 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def _to_varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def hybrid(data: bytes, width: int, count: int) -> NDArray[np.int64]:
    """Decodes `count` numbers of `width` bits in parquet's mixture of runs and packed bits."""
    parts: list[NDArray[np.int64]] = []
    at = done = 0
    while done < count:
        head, at = _varint(data, at)
        if head & 1:
            num_bytes = min(head >> 1, -(-(count - done) // 8)) * width
            packed = np.frombuffer(data, np.uint8, num_bytes, at)
            bits = np.unpackbits(packed, bitorder="little").reshape(-1, max(width, 1))
            parts.append(bits.astype(np.int64) @ (1 << np.arange(max(width, 1))))
            at += num_bytes
        else:
            num_bytes = -(-width // 8)
            value = int.from_bytes(data[at : at + num_bytes], "little")
            parts.append(np.full(min(head >> 1, count - done), value, dtype=np.int64))
            at += num_bytes
        done += len(parts[-1])
        if not len(parts[-1]):
            raise NotSupported("an empty run")
    return np.concatenate(parts)[:count] if parts else np.zeros(0, np.int64)
