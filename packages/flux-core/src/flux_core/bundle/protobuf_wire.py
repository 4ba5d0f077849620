"""Reads protobuf's wire format in place, strictly and without a schema.

A message is a span of the file's bytes. Nothing is copied until it is requested, nothing recurses,
and a file of too many tiny fields is refused, so a malicious file costs no more than a valid one.
https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

Value = int | slice | None
"""A varint, the span of a message, text or packed numbers, or None for a number of fixed width."""

MAX_FIELDS = 500_000
"""The limit for the fields read from a file: enough for 40,000 nodes of about 12 fields each."""
MAX_TEXT_BYTES = 1000

_VARINT, _FIXED64, _SPAN, _FIXED32 = 0, 1, 2, 5


class ProtobufError(ValueError):
    """The bytes are not a valid message; the text is one phrase."""


@cache
def _numbered(once: str, many: str) -> tuple[dict[int, str], set[str]]:
    """Returns field number -> name for all fields, and the names of those in `once`."""
    names = {int(n): name for name, n in (e.split("=") for e in f"{once} {many}".split())}
    return names, {entry.split("=")[0] for entry in once.split()}


class WireReader:
    """A file's bytes, and how many more of its fields may be read."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._fields_left = MAX_FIELDS

    def whole(self) -> slice:
        """The file's outermost message."""
        return slice(0, len(self._data))

    def fields(self, message: Value) -> Iterator[tuple[int, Value]]:
        """Yields (field number, value) of each field, in file order.

        Raises:
            ProtobufError: not a message, or a field reaches beyond its end.
        """
        at, end = self._span(message)
        while at < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise ProtobufError(f"more than {MAX_FIELDS} fields")
            tag, at = self._varint(at, end)
            number, wire_type = tag >> 3, tag & 7
            if not 1 <= number < 2**29:
                raise ProtobufError(f"field number {number}")
            value: Value = None
            if wire_type == _VARINT:
                value, at = self._varint(at, end)
            elif wire_type == _SPAN:
                length, at = self._varint(at, end)
                value = slice(at, at + length)
                at += length
            elif wire_type in (_FIXED32, _FIXED64):
                at += 4 if wire_type == _FIXED32 else 8
            else:
                raise ProtobufError(f"wire type {wire_type}")
            if at > end:
                raise ProtobufError("cut off, or a length that is too large")
            yield number, value

    def collect(self, message: Value, *, once: str, many: str = "") -> dict[str, list[Value]]:
        """Returns the values of some fields.

        If a singular field is repeated, protobuf takes the last value or merges them. No writer
        does that, and two readers could interpret it differently, so it is refused.

        Args:
            message: the message to read.
            once: `name=number` of fields that may appear once, separated by spaces.
            many: the same for fields that may be repeated.
        """
        names, single = _numbered(once, many)
        found: dict[str, list[Value]] = {name: [] for name in names.values()}
        for number, value in self.fields(message):
            if (name := names.get(number)) is not None:
                if name in single and found[name]:
                    raise ProtobufError(f"{name} appears twice")
                found[name].append(value)
        return found

    def text(self, values: list[Value]) -> str:
        """The text of a field that appears at most once; '' if it is absent."""
        if not values:
            return ""
        begin, end = self._span(values[0])
        if end - begin > MAX_TEXT_BYTES:
            raise ProtobufError(f"a text of {end - begin} bytes")
        try:
            return self._data[begin:end].decode()
        except UnicodeDecodeError:
            raise ProtobufError("a text that is not UTF-8") from None

    def number(self, values: list[Value]) -> int:
        """The integer of a field that appears at most once; 0 if it is absent."""
        return self._signed(values[0]) if values else 0

    def numbers(self, values: list[Value]) -> Iterator[int]:
        """The integers of a repeated field, packed or not."""
        for value in values:
            if isinstance(value, slice):
                at, end = self._span(value)
                while at < end:
                    self._fields_left -= 1
                    if self._fields_left < 0:
                        raise ProtobufError(f"more than {MAX_FIELDS} fields")
                    number, at = self._varint(at, end)
                    yield self._signed(number)
            else:
                yield self._signed(value)

    def _span(self, value: Value) -> tuple[int, int]:
        if not isinstance(value, slice):
            raise ProtobufError("a number in place of a message or text")
        return value.start, value.stop

    def _signed(self, value: Value) -> int:
        """An int64: two's complement in 64 bits."""
        if not isinstance(value, int):
            raise ProtobufError("a message or text in place of an integer")
        return value - 2**64 if value >= 2**63 else value

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while at < end and shift < 70:
            byte = self._data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >= 2**64:
                    raise ProtobufError("an integer of more than 64 bits")
                return value, at
            shift += 7
        raise ProtobufError("an integer of more than 10 bytes" if shift >= 70 else "cut off")
