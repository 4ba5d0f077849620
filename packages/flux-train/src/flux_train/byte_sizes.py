"""How many bytes something takes, and how people read that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def readable_bytes(count: float) -> str:
    """In the unit that fits: '512 B', '1.3 MiB', '40 GiB'."""
    unit = 0
    while count >= 1000 and unit + 1 < len(UNITS):
        count, unit = count / 1024, unit + 1
    return f"{count:.{1 if 0 < count < 10 and unit else 0}f} {UNITS[unit]}"


def tensor_bytes(state: Mapping[str, Any]) -> int:
    """Of all tensors in nested dicts and lists, as `torch.save` writes them: shared memory once."""
    found: dict[int, int] = {}
    waiting: list[Any] = [state]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
    return sum(found.values())
