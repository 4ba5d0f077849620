"""What goes wrong between the programs of a launch, from their recorded loads and stores."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .interpreter import Access, Memory, Record


def hazards(record: Record, memory: Memory) -> list[str]:
    """Returns elements that are written twice, and those that one program reads and another writes.

    Programs of a launch run in any order and at the same time, so neither may happen.
    """
    found = []
    addresses, owners = _flat(record.stores)
    order = np.argsort(addresses, kind="stable")
    addresses, owners = addresses[order], owners[order]
    twice = addresses[1:][addresses[1:] == addresses[:-1]]
    if twice.size:
        found.append(f"{memory.name_at(int(twice[0]))}: {twice.size} elements are written twice")
    read, readers = _flat(record.loads)
    at = np.searchsorted(addresses, read)
    at[at == addresses.size] = 0
    is_race = (addresses[at] == read) & (owners[at] != readers) if addresses.size else np.array([])
    if is_race.any():
        name = memory.name_at(int(read[is_race][0]))
        found.append(f"{name}: {is_race.sum()} elements are read while another program writes them")
    return found


def touched(accesses: list[Access], memory: Memory) -> dict[str, tuple[int, int, int]]:
    """Buffer name -> first and last element, plus one, and the number of different elements."""
    addresses, _ = _flat(accesses)
    unique = np.unique(addresses)
    result = {}
    for name, array in memory.arrays.items():
        start = array.ctypes.data
        inside = unique[(unique >= start) & (unique < start + array.nbytes)].astype(np.int64)
        if inside.size:
            elements = (inside - start) // array.itemsize
            result[name] = (int(elements[0]), int(elements[-1]) + 1, elements.size)
    return result


def _flat(accesses: list[Access]) -> tuple[NDArray[np.uint64], NDArray[Any]]:
    """All addresses, and the number of the program of each."""
    if not accesses:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    programs: dict[tuple[int, int, int], int] = {}
    owners = [
        np.full(access.addresses.size, programs.setdefault(access.program, len(programs)))
        for access in accesses
    ]
    return np.concatenate([access.addresses for access in accesses]), np.concatenate(owners)
