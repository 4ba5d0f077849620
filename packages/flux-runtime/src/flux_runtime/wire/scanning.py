"""Walks through a frame of msgpack without making an object of it.

The frame comes from a stranger. A few bytes can claim millions of values, or values inside each
other without end; this finds out in one pass, with memory for one number per level.
"""

from __future__ import annotations

from .bounds import Bounds, WireError

# The formats of msgpack's specification, by their first byte.
_SCALARS = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8}
_SCALARS |= {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_TEXTS = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_LISTS = {0xDC: 2, 0xDD: 4}
_MAPS = {0xDE: 2, 0xDF: 4}


def scan(frame: bytes | bytearray | memoryview, bounds: Bounds) -> None:
    """Refuses a frame that is not exactly one map of msgpack within the bounds.

    Raises:
        WireError: it is not.
    """
    size = len(frame)
    if size > bounds.max_bytes:
        raise WireError(
            f"message: expected at most {bounds.max_bytes} bytes, got {size}", "oversized"
        )
    if not size or not (frame[0] & 0xF0 == 0x80 or frame[0] in _MAPS):
        raise WireError("message: expected a map of msgpack, got something else", "malformed")
    position, items = 0, 0
    open_values = [1]  # values still to come, on each level
    while open_values:
        if not open_values[-1]:
            open_values.pop()
            continue
        open_values[-1] -= 1
        position, count = _value(frame, position, bounds)
        if count is None:
            continue
        items += abs(count)
        if items > bounds.max_items:
            raise WireError(
                f"message: expected at most {bounds.max_items} values, got more. Send lists of "
                "numbers as arrays",
                "too_many_items",
            )
        if len(open_values) > bounds.max_depth:
            raise WireError(
                f"message: expected at most {bounds.max_depth} maps and lists inside each other, "
                "got more",
                "too_deep",
            )
        open_values.append(count if count >= 0 else -2 * count)
    if position != size:
        raise WireError(
            f"message: expected one map, got {size - position} bytes after it", "malformed"
        )


def _value(
    frame: bytes | bytearray | memoryview, position: int, bounds: Bounds
) -> tuple[int, int | None]:
    """Returns the position after a value, or after the head of a map or list, and what follows:
    the number of a list's values, minus the number of a map's pairs, None of others."""
    if position >= len(frame):
        raise _truncated()
    first = frame[position]
    position += 1
    count: int | None = None
    if first < 0x80 or first >= 0xE0:  # a small integer
        return position, None
    if first < 0x90:
        return position, -(first & 0x0F)
    if first < 0xA0:
        return position, first & 0x0F
    if first < 0xC0:
        return _skip(frame, position, first & 0x1F, bounds.max_text, "a text")
    if first in _SCALARS:
        return _skip(frame, position, _SCALARS[first], 8, "a number")
    for heads, most, what in (
        (_BYTES, bounds.max_array_bytes, "a value"),
        (_TEXTS, bounds.max_text, "a text"),
    ):
        if first in heads:
            position, length = _length(frame, position, heads[first])
            return _skip(frame, position, length, most, what)
    if first in _LISTS:
        return _length(frame, position, _LISTS[first])
    if first in _MAPS:
        position, count = _length(frame, position, _MAPS[first])
        return position, -count
    raise WireError(
        f"message: expected plain values, got msgpack's format 0x{first:02x}", "malformed"
    )


def _skip(
    frame: bytes | bytearray | memoryview, position: int, length: int, most: int, what: str
) -> tuple[int, None]:
    if length > most:
        raise WireError(
            f"message: expected {what} of at most {most} bytes, got {length}", "oversized"
        )
    if position + length > len(frame):
        raise _truncated()
    return position + length, None


def _length(frame: bytes | bytearray | memoryview, position: int, width: int) -> tuple[int, int]:
    end = position + width
    if end > len(frame):
        raise _truncated()
    return end, int.from_bytes(frame[position:end], "big")


def _truncated() -> WireError:
    return WireError("message: expected more bytes, got a truncated frame", "malformed")
