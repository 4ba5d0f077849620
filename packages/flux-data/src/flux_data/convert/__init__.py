"""Converts, merges and splits LeRobot datasets, and converts ALOHA's HDF5 to LeRobot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_core.lazy import lazy_exports

if TYPE_CHECKING:
    from .aloha_hdf5 import AlohaHdf5 as AlohaHdf5
    from .aloha_hdf5 import convert_aloha_hdf5 as convert_aloha_hdf5
    from .lerobot import convert as convert
    from .lerobot import split as split

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "aloha_hdf5": ("AlohaHdf5", "convert_aloha_hdf5"),
        "lerobot": ("convert", "split"),
    },
)
