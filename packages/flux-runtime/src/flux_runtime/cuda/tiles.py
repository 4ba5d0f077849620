"""Which tiles a kernel uses for a problem on a card."""

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


def tiles_for(
    kernel: str, arch: str, *, rows: int, columns: int = 0, depth: int = 0, dtype: DType = "bf16"
) -> Tiles:
    """Interim: large tiles, which are fast in the interpreter."""
    most = 128 if not arch else 64
    sizes = {"BM": rows, "BN": columns, "BK": depth}
    names = {"embed": ("BN",), "start": ("BM", "BN"), "combine": ("BM",), "attention": ("BM", "BN")}
    least = {"BM": 16, "BN": 8, "BK": 16}
    chosen = {
        name: max(least[name], min(most, 1 << max(sizes[name] - 1, 0).bit_length()))
        for name in names.get(kernel, ("BM", "BN", "BK"))
    }
    if kernel == "embed":
        chosen["BN"] = 1 << (columns - 1).bit_length()
    if kernel == "qkv_rope":
        while columns % chosen["BN"]:
            chosen["BN"] //= 2
    return Tiles(constants=chosen)


def key_splits(arch: str, *, rows: int, keys: int) -> int:
    """Interim: into how many parts the keys of the expert's attention are split."""
    return 3 if not arch else 7
