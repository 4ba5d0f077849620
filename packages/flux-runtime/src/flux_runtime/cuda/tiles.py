"""Which tiles a kernel uses for a problem on a card.

The sizes are chosen by a model of launch times and by what the compiler makes of them (registers,
spills, shared memory), not yet by measurements on cards. There are few, because each is compiled
for every architecture: one for the many rows of vision and prefix, and one for the few rows of the
expert, whose products only wait for their weights and need many programs that read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .plan import DType


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """The tile constants of a kernel, and its warps and pipeline stages."""

    constants: Mapping[str, int]
    num_warps: int = 4
    num_stages: int = 3


INTERPRETER = ""
"""In place of an architecture: Triton's interpreter, where large tiles are fast."""

_FEW_ROWS = 128
"""The expert's rows: a chunk's steps and perhaps a state."""

_MANY_ROWS, _MANY_COLUMNS = 512, 2048
"""From here on, large tiles still give every processor of a large card something to do."""

_LARGE_PRODUCTS = frozenset({"sm_90a", "sm_100a", "sm_103a", "sm_110a"})
"""Architectures whose tensor cores read shared memory (227 KiB of it) by themselves; on the others
both operands pass through registers, which large tiles would overflow."""

_FEW_PROCESSORS = frozenset({"sm_87", "sm_110a", "sm_121a"})
"""Architectures of small cards, which have no use for many programs."""

_NAMES: Mapping[str, tuple[str, ...]] = {
    "embed": ("BN",),
    "start": ("BM", "BN"),
    "combine": ("BM",),
    "attention": ("BM", "BN"),
}
_PRODUCT = ("BM", "BN", "BK")


def _tiles(bm: int, bn: int, bk: int, warps: int, stages: int) -> Tiles:
    constants = {"BM": bm, "BN": bn, "BK": bk}
    return Tiles(constants=constants, num_warps=warps, num_stages=stages)


_OTHERS: Mapping[str, Tiles] = {
    "start": _tiles(16, 32, 0, 4, 1),
    "combine": _tiles(4, 0, 0, 4, 1),
    "euler": _tiles(16, 16, 64, 4, 3),
    "patches": _tiles(64, 64, 32, 4, 3),
}


def tiles_for(
    kernel: str, arch: str, *, rows: int, columns: int = 0, depth: int = 0, dtype: DType = "bf16"
) -> Tiles:
    """Returns the tiles of a kernel.

    Args:
        kernel: its name.
        arch: such as 'sm_90a', or '' for the interpreter.
        rows: of the result.
        columns: of the result; of `qkv_rope`, half a head; of `attention`, the keys.
        depth: that is summed over; of `attention` and `combine`, the dimensions of a head.
        dtype: of the weight; float32 products have no tensor instructions.
    """
    names = _NAMES.get(kernel, _PRODUCT)
    if arch == INTERPRETER:
        return _for_interpreter(kernel, names, rows, columns, depth)
    found = _for_card(kernel, arch, rows, columns, depth, dtype)
    return Tiles(
        constants={name: found.constants[name] for name in names},
        num_warps=found.num_warps,
        num_stages=found.num_stages,
    )


def key_splits(arch: str) -> int:
    """Returns into how many parts, at least 2, the keys of the expert's attention are split."""
    if arch == INTERPRETER:
        return 3
    return 2 if arch in _FEW_PROCESSORS else 7


def _for_card(kernel: str, arch: str, rows: int, columns: int, depth: int, dtype: DType) -> Tiles:
    is_few, is_large = rows <= _FEW_ROWS, arch in _LARGE_PRODUCTS
    if kernel == "linear":
        return _for_linear(rows, columns, dtype)
    if kernel == "geglu":
        few, many = _tiles(64, 32, 64, 4, 5), _tiles(128, 128 if is_large else 64, 64, 8, 3)
        return few if is_few else many
    if kernel == "qkv_rope":
        few, many = _tiles(64, 16, 64, 4, 5), _tiles(64, 64, 64, 4, 3)
        return _dividing(few if is_few else many, columns)
    if kernel == "attention":
        is_wide = depth > 128
        keys = 32 if is_wide and not is_large else 64
        return _tiles(64, keys, 0, 4 if is_large and not is_wide else 8, 2)
    if kernel == "embed":
        return _tiles(0, min(power_of_two(columns), 2048), 0, 4, 1)
    return _OTHERS[kernel]


def _for_linear(rows: int, columns: int, dtype: DType) -> Tiles:
    if dtype == "fp32":
        return _tiles(16, 32, 32, 4, 3)
    if rows <= _FEW_ROWS:
        return _tiles(64, 16, 128, 4, 4)
    is_many = rows > _MANY_ROWS and columns >= _MANY_COLUMNS
    return _tiles(128, 128, 64, 8, 3) if is_many else _tiles(128, 64, 64, 4, 3)


def _dividing(tiles: Tiles, columns: int) -> Tiles:
    """Makes BN a divisor of the number of columns."""
    wide = tiles.constants["BN"]
    while columns % wide:
        wide //= 2
    return Tiles(
        constants={**tiles.constants, "BN": wide},
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )


def _for_interpreter(
    kernel: str, names: tuple[str, ...], rows: int, columns: int, depth: int
) -> Tiles:
    sizes = {"BM": (rows, 16), "BN": (columns, 8), "BK": (depth, 16)}
    chosen = {
        name: max(least, min(128, power_of_two(size)))
        for name, (size, least) in sizes.items()
        if name in names
    }
    if kernel == "embed":
        chosen["BN"] = power_of_two(columns)
    found = Tiles(constants=chosen)
    return _dividing(found, columns) if kernel == "qkv_rope" else found


def power_of_two(size: int) -> int:
    """Returns the smallest power of two that is not smaller than `size`, and at least 1."""
    return 1 << max(size - 1, 0).bit_length()
