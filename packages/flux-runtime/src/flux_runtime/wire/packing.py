"""Messages as bytes: msgpack, with arrays as openpi-client encodes them.

An array is a map with the keys b"__ndarray__" (true), b"data", b"dtype" and b"shape", a number of
numpy's one with b"__npgeneric__", b"data" and b"dtype" (openpi_client/msgpack_numpy.py).

`unpack` first walks through a frame without making any object of it (`scanning.py`), and so knows
how much memory it will take before it takes any.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import numpy as np

from .bounds import Bounds, WireError, shown
from .libraries import load
from .scanning import scan

_ARRAY, _SCALAR = b"__ndarray__", b"__npgeneric__"
_ARRAY_KEYS = {_ARRAY, b"data", b"dtype", b"shape"}
_SCALAR_KEYS = {_SCALAR, b"data", b"dtype"}
_UNSUPPORTED = "VOcSUmM"
"""Kinds of dtypes that no receiver takes; openpi-client refuses the first three."""


def pack(data: Mapping[str, Any]) -> bytes:
    """Returns a message as bytes, the same as those of openpi-client.

    Args:
        data: texts -> None, booleans, numbers, texts, bytes, lists, maps, and numpy's arrays and
            numbers; not modified.

    Raises:
        WireError: a value cannot be encoded.
    """
    try:
        return cast(bytes, load("msgpack", "remote inference").packb(data, default=_plain))
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"message: cannot be packed ({error})", "unsupported") from error


def unpack(frame: bytes | bytearray | memoryview, bounds: Bounds) -> dict[str, Any]:
    """Returns the content of a message.

    The memory taken is at most that of the frame once more, and about 100 bytes per item.

    Args:
        frame: one message, all of it.
        bounds: what it may contain.

    Returns:
        Texts -> plain values, and numpy arrays, which are read-only, as bytes are.

    Raises:
        WireError: it is not such a message, or larger than the bounds.
    """
    scan(frame, bounds)
    msgpack = load("msgpack", "remote inference")
    try:
        data = msgpack.unpackb(
            frame,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=partial(_map, bounds=bounds),
            max_array_len=bounds.max_items,
            max_map_len=bounds.max_items,
            max_bin_len=bounds.max_array_bytes,
            max_str_len=bounds.max_text,
            max_ext_len=0,
        )
    except WireError:
        raise
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        reason = " ".join(ascii(str(error))[1:-1].split())[:120]
        raise WireError(f"message: not valid msgpack ({reason})", "malformed") from error
    if not isinstance(data, dict):
        raise WireError(f"message: expected a map, got {type(data).__name__}", "malformed")
    return cast(dict[str, Any], data)


def _plain(value: object) -> object:
    """Returns numpy's values as msgpack can write them."""
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind in _UNSUPPORTED:
            raise TypeError(f"arrays of {value.dtype} are not sent")
        if isinstance(value, np.ndarray):
            array = cast(np.ndarray[Any, Any], value)
            return {
                _ARRAY: True,
                b"data": array.tobytes(),
                b"dtype": array.dtype.str,
                b"shape": array.shape,
            }
        return {_SCALAR: True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"values of type {type(value).__name__} are not sent")


def _map(pairs: list[tuple[str | bytes, Any]], *, bounds: Bounds) -> Any:
    """Returns the map, array or number that the keys and values are."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise WireError("message: a key appears twice in one map", "malformed")
    if _ARRAY in found:
        return _array(cast(dict[bytes, Any], found), bounds)
    if _SCALAR in found:
        return _scalar(cast(dict[bytes, Any], found), bounds)
    for key in found:
        if not isinstance(key, str):
            raise WireError(f"message: expected texts as keys, got {shown(key)}", "malformed")
        if len(key) > bounds.max_key:
            raise WireError(
                f"message: expected keys of at most {bounds.max_key} characters, got {len(key)}",
                "oversized",
            )
    return found


def _array(found: dict[bytes, Any], bounds: Bounds) -> np.ndarray[Any, Any]:
    """Returns a read-only view of an array's bytes."""
    _check_keys(found, _ARRAY_KEYS)
    dtype = _dtype(found[b"dtype"], bounds)
    data, shape = found[b"data"], found[b"shape"]
    if not isinstance(data, bytes):
        raise WireError(f"array: expected bytes, got {type(data).__name__}", "bad_array")
    if not isinstance(shape, list) or len(shape) > bounds.max_dims:
        expected = f"a shape of at most {bounds.max_dims} sizes"
        raise WireError(f"array: expected {expected}, got {_sizes(shape)}", "bad_array")
    # A size above the limit is refused even beside a size of 0.
    if not all(type(size) is int and 0 <= size <= bounds.max_array_bytes for size in shape):
        raise WireError(f"array: expected sizes, got {_sizes(shape)}", "bad_array")
    if math.prod(max(size, 1) for size in shape) * dtype.itemsize > bounds.max_array_bytes:
        expected = f"at most {bounds.max_array_bytes} bytes"
        raise WireError(f"array: expected {expected}, got {dtype} {_sizes(shape)}", "oversized")
    if math.prod(shape) * dtype.itemsize != len(data):
        expected = f"{math.prod(shape) * dtype.itemsize} bytes for {dtype} {_sizes(shape)}"
        raise WireError(f"array: expected {expected}, got {len(data)}", "bad_array")
    if dtype.kind == "b" and data and max(data) > 1:
        raise WireError("array: expected bytes 0 or 1 for bool, got others", "bad_array")
    return np.frombuffer(data, dtype).reshape(shape)


def _scalar(found: dict[bytes, Any], bounds: Bounds) -> np.generic:
    """Returns a number of numpy's."""
    _check_keys(found, _SCALAR_KEYS)
    dtype, value = _dtype(found[b"dtype"], bounds), found[b"data"]
    kinds = {"b": (bool,), "f": (float, int)}.get(dtype.kind, (int,))
    if type(value) not in kinds:
        raise WireError(f"number: expected {dtype}, got {shown(value)}", "bad_array")
    try:
        with np.errstate(all="ignore"):
            return cast(np.generic, dtype.type(value))
    except (OverflowError, ValueError) as error:
        raise WireError(f"number: expected {dtype}, got {shown(value)}", "bad_array") from error


def _sizes(shape: object) -> str:
    """Returns a shape for a message, if it is short."""
    is_short = isinstance(shape, list) and len(cast(list[object], shape)) <= 8
    return f"[{', '.join(map(shown, cast(list[object], shape)))}]" if is_short else shown(shape)


def _check_keys(found: Mapping[bytes, Any], keys: set[bytes]) -> None:
    if found.keys() != keys or any(found[key] is not True for key in found if b"__" in key):
        raise WireError("array: expected openpi-client's keys, got others", "bad_array")


def _dtype(name: object, bounds: Bounds) -> np.dtype[Any]:
    if not isinstance(name, str) or name not in bounds.dtypes:
        raise WireError(
            f"array: dtype: expected one of {', '.join(sorted(bounds.dtypes))}, got {shown(name)}",
            "bad_array",
        )
    return np.dtype(name)
