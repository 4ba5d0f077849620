"""How constants come from the tensors of a bundle, as data.

A recipe is a small expression. Its leaves are tensors of a bundle; `evaluate` computes it with
numpy. bfloat16 is uint16 there, with the bits of bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Read = Callable[[str], Array]
"""Returns a tensor of the bundle by name: uint16 if it is bfloat16, float32 otherwise."""
Type = Literal["fp32", "bf16"]

_BLOCK = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What every recipe is."""


@dataclass(frozen=True, kw_only=True)
class Stored(Recipe):
    """A tensor of the bundle."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Values(Recipe):
    """Numbers, (rows, columns)."""

    rows: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Rows(Recipe):
    """Several matrices or vectors, one below the other."""

    parts: tuple[Recipe, ...]


@dataclass(frozen=True, kw_only=True)
class ColumnRange(Recipe):
    """Columns `first` to `end` of a matrix."""

    of: Recipe
    first: int
    end: int


@dataclass(frozen=True, kw_only=True)
class PatchRows(Recipe):
    """A convolution's weight (N, channels, height, width) as (N, padded): one row per output, in
    the order height, width, channel, with zeros behind."""

    of: Recipe
    padded: int


@dataclass(frozen=True, kw_only=True)
class Sum(Recipe):
    """The sum of broadcast parts and of a number."""

    parts: tuple[Recipe, ...]
    plus: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Scaled(Recipe):
    """A matrix times a vector, column by column, and times a number."""

    of: Recipe
    columns: Recipe | None = None
    by: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Applied(Recipe):
    """`rows @ weight.T`: what a linear layer makes of each row."""

    weight: Recipe
    rows: Recipe


@dataclass(frozen=True, kw_only=True)
class Chained(Recipe):
    """`outer @ inner`: the weight of two linear layers, one after the other."""

    outer: Recipe
    inner: Recipe


@dataclass(frozen=True, kw_only=True)
class RowSums(Recipe):
    """The sum of each row of a matrix, as it is after rounding to `dtype`."""

    of: Recipe
    dtype: Type


def evaluate(recipe: Recipe, dtype: Type, read: Read) -> Array:
    """Computes a constant in float32, and rounds it once.

    Args:
        recipe: what to compute.
        dtype: of the result; 'bf16' is returned as uint16.
        read: gives the bundle's tensors.
    """
    match recipe:
        # What only moves values does so in their own type, without a copy in float32.
        case Stored(name=name):
            return _as_type(read(name), dtype)
        case Rows(parts=parts):
            return np.concatenate([evaluate(part, dtype, read) for part in parts])
        case PatchRows(of=of, padded=padded):
            weight = evaluate(of, dtype, read)
            rows = weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)
            return np.pad(rows, ((0, 0), (0, padded - rows.shape[1])))
        case Scaled():
            return _scaled(recipe, dtype, read)
        case _:
            return _as_type(np.ascontiguousarray(_computed(recipe, read), np.float32), dtype)


def _scaled(recipe: Scaled, dtype: Type, read: Read) -> Array:
    """Most weights are scaled, so this goes through them in blocks that fit a cache."""
    of = recipe.of
    match of:
        case Stored(name=name):
            values = read(name)
        case _:
            values = evaluate(of, "fp32", read)
    factor: Any = np.float32(recipe.by)
    if recipe.columns is not None:
        factor = evaluate(recipe.columns, "fp32", read) * factor
    result = np.empty(values.shape, np.uint16 if dtype == "bf16" else np.float32)
    rows = max(1, _BLOCK * len(values) // max(values.size, 1))
    for begin in range(0, len(values), rows):
        block = as_float32(values[begin : begin + rows]) * factor
        result[begin : begin + rows] = _as_type(block, dtype)
    return result


def _computed(recipe: Recipe, read: Read) -> Array:
    def wide(part: Recipe) -> Array:
        return evaluate(part, "fp32", read)

    match recipe:
        case Values(rows=rows):
            return np.array(rows, np.float32)
        case ColumnRange(of=of, first=first, end=end):
            return wide(of)[:, first:end]
        case Sum(parts=parts, plus=plus):
            total = wide(parts[0]) + np.float32(plus)
            for part in parts[1:]:
                total = total + wide(part)
            return total
        case Applied(weight=weight, rows=rows):
            return wide(rows) @ wide(weight).T
        case Chained(outer=outer, inner=inner):
            return wide(outer) @ wide(inner)
        case RowSums(of=of, dtype=dtype):
            values = as_float32(evaluate(of, dtype, read))
            return values.sum(axis=1, dtype=np.float64)
        case _:
            raise TypeError(f"unknown recipe: {type(recipe).__name__}")


def _as_type(values: Array, dtype: Type) -> Array:
    if dtype == "bf16":
        return values if values.dtype == np.uint16 else as_bfloat16(values)
    return as_float32(values)


def as_float32(values: Array) -> NDArray[np.float32]:
    """Returns bfloat16 bits (uint16) as float32; float32 as it is."""
    if values.dtype != np.uint16:
        return values.astype(np.float32, copy=False)
    return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)


def as_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Rounds float32 to the nearest bfloat16, ties to even; returns bits. NaN stays NaN."""
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    bits = flat.view(np.uint32)
    result = np.empty(flat.size, np.uint16)
    for begin in range(0, flat.size, _BLOCK):
        part = slice(begin, begin + _BLOCK)
        odd = (bits[part] >> np.uint32(16)) & np.uint32(1)
        result[part] = (bits[part] + odd + np.uint32(0x7FFF)) >> np.uint32(16)
        result[part][np.isnan(flat[part])] = 0x7FC0
    return result.reshape(values.shape)
