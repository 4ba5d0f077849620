"""Checks the values inside a bundle: each fault is one line that says what to do.

A checker is `(where, value) -> checked value`. `where` is the dotted path inside the file, such as
`manifest.json: graphs.prefix.inputs[0].shape`, and every message begins with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from ..errors import BundleError

T = TypeVar("T")
Checker = Callable[[str, Any], T]

AGAIN = "Export the bundle again."
DAMAGED = "The bundle is damaged: copy or export it again."
TENSOR_DTYPES = ("bool", "uint8", "int32", "int64", "float16", "bfloat16", "float32")
LARGEST = 1e30
"""The largest number in a statistic: it and the difference of two are finite in float32."""
MAX_NESTING = 8
MAX_ITEMS = 100_000
MAX_TENSOR_RANK = 8
MAX_TENSOR_ELEMENTS = 2**28
"""The limit for one input or output: 16 cameras of 2,300 by 2,300 pixels have as many."""
ITEM_BYTES = {
    "bool": 1,
    "int8": 1,
    "float8_e4m3fn": 1,
    "uint8": 1,
    "int16": 2,
    "uint16": 2,
    "float16": 2,
    "bfloat16": 2,
    "int32": 4,
    "uint32": 4,
    "float32": 4,
    "int64": 8,
    "uint64": 8,
    "float64": 8,
}
_SAFE_NAME = re.compile(r"[A-Za-z0-9_.+=@-]+(/[A-Za-z0-9_.+=@-]+)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def show(value: object) -> str:
    """Returns `repr(value)` on one line of at most 80 characters."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or very deep nesting
        text = f"a {type(value).__name__} too large to print"
    return text if len(text) <= 80 else f"{text[:77]}..."


def one_line(message: str) -> str:
    """Returns a message without characters that move a terminal's cursor."""
    return "".join(character if character.isprintable() else " " for character in message)


def fail(where: str, expected: object, got: object, hint: str = AGAIN) -> NoReturn:
    """Raises a BundleError `where: expected X, got Y. hint`."""
    raise BundleError(f"{where}: expected {expected}, got {show(got)}. {hint}")


def integer(low: int, high: int) -> Checker[int]:
    """Returns a checker of an integer in [low, high]; true and false are not integers."""

    def check(where: str, value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            fail(where, f"an integer from {low} to {high}", value)
        return value

    return check


def number(low: float, high: float) -> Checker[float]:
    """Returns a checker of a finite number in [low, high]."""

    def check(where: str, value: Any) -> float:
        if type(value) not in (int, float) or not low <= value <= high:
            fail(where, f"a number from {low:g} to {high:g}", value)
        return float(value)

    return check


def text(*, max_length: int = 1000, allow_empty: bool = False) -> Checker[str]:
    """Returns a checker of a string that can be printed and encoded."""

    def check(where: str, value: Any) -> str:
        if not isinstance(value, str) or len(value) > max_length or not (value or allow_empty):
            fail(where, f"a text of at most {max_length} characters", value)
        if any(0xD800 <= ord(character) <= 0xDFFF for character in value):
            fail(where, "valid Unicode text", value)
        return value

    return check


def one_of(*choices: str) -> Checker[str]:
    """Returns a checker of one of a closed set of strings."""

    def check(where: str, value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            fail(where, f"one of {', '.join(choices)}", value)
        return value

    return check


def sequence(item: Checker[T], *, low: int, high: int) -> Checker[tuple[T, ...]]:
    """Returns a checker of a list of `low` to `high` items, which becomes a tuple."""

    def check(where: str, value: Any) -> tuple[T, ...]:
        if not isinstance(value, list) or not low <= len(value) <= high:
            fail(where, f"a list of {low} to {high} items", value)
        return tuple(item(f"{where}[{index}]", entry) for index, entry in enumerate(value))

    return check


def mapping(item: Checker[T], *, high: int = 100_000) -> Checker[dict[str, T]]:
    """Returns a checker of an object whose values all pass `item`."""

    def check(where: str, value: Any) -> dict[str, T]:
        if not isinstance(value, dict) or len(value) > high:
            fail(where, f"an object of at most {high} keys", value)
        return {name: item(f"{where}[{show(name)}]", entry) for name, entry in value.items()}

    return check


def unique(names: Sequence[str], where: str) -> None:
    """Refuses a list in which a name appears twice."""
    for index, name in enumerate(names):
        if name in names[:index]:
            fail(where, "each name once", name)


def record(
    where: str,
    value: Any,
    checkers: Mapping[str, Checker[Any]],
    optional: Mapping[str, Checker[Any]] | None = None,
) -> dict[str, Any]:
    """Checks an object that has all keys of `checkers`, and otherwise only keys of `optional`."""
    if not isinstance(value, dict):
        fail(where, "an object", value)
    prefix = where if where.endswith(": ") else f"{where}."
    for name in checkers:
        if name not in value:
            raise BundleError(f"{prefix}{name}: the key is missing. {AGAIN}")
    known = {**checkers, **(optional or {})}
    for name in value:
        if name not in known:
            raise BundleError(
                f"{prefix.rstrip('.: ')}: unknown key {show(name)}. It may come from another "
                f"version of flux: export the bundle again with this one."
            )
    return {n: check(f"{prefix}{n}", value[n]) for n, check in known.items() if n in value}


def plain_object(*, texts: bool) -> Checker[dict[str, Any]]:
    """Returns a checker of an object of numbers, lists and objects, at most MAX_NESTING deep.

    With `texts` it may hold texts, true, false and null too.
    """

    def check(where: str, value: Any, depth: int = 1) -> Any:
        if isinstance(value, dict | list) and depth > MAX_NESTING:
            fail(where, f"at most {MAX_NESTING} objects and lists inside each other", "more")
        if isinstance(value, dict):
            items = mapping(lambda _, item: item)(where, value).items()
            return {name: check(f"{where}[{show(name)}]", v, depth + 1) for name, v in items}
        if isinstance(value, list):
            items = sequence(lambda _, item: item, low=0, high=MAX_ITEMS)(where, value)
            return tuple(check(f"{where}[{i}]", v, depth + 1) for i, v in enumerate(items))
        if texts and (value is None or isinstance(value, bool)):
            return value
        if texts and isinstance(value, str):
            return text(allow_empty=True)(where, value)
        number(-LARGEST, LARGEST)(where, value)
        return value

    def check_object(where: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            fail(where, "an object", value)
        return check(where, value)

    return check_object


def tensor_shape(where: str, value: Any) -> tuple[int, ...]:
    """Checks a static shape of reasonable size."""
    shape = sequence(integer(1, 2**31), low=0, high=MAX_TENSOR_RANK)(where, value)
    if math.prod(shape) > MAX_TENSOR_ELEMENTS:
        fail(where, f"at most {MAX_TENSOR_ELEMENTS} elements", value)
    return shape


def file_name(where: str, value: Any) -> str:
    """Checks a relative path inside the bundle: no `..`, not absolute, only safe characters."""
    if not isinstance(value, str) or len(value) > 255:
        fail(where, "a relative file name", value)
    parts = value.split("/")
    if value.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", value):
        raise BundleError(
            f"{where}: {show(value)} points outside the bundle. Names must be relative and without "
            f"'..'. Do not use this bundle unless you trust where it comes from."
        )
    if not _SAFE_NAME.fullmatch(value) or "." in parts:
        fail(where, "a name of letters, digits and _.+=@- with / between folders", value)
    return value


def sha256_text(where: str, value: Any) -> str:
    """Checks the 64 hexadecimal digits of a SHA-256."""
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        fail(where, "64 lower-case hexadecimal digits", value)
    return value
