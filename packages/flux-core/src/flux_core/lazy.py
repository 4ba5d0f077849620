"""Public names of packages, imported on first use.

A package's `__init__` lists its names once for the type checker and once for Python; a test
compares the two lists:

    if TYPE_CHECKING:
        from .dataset import open_lerobot as open_lerobot

    __getattr__, __dir__ = lazy_exports(__name__, {"dataset": ("open_lerobot",)})
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence


def lazy_exports(
    package: str, exports: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Returns `__getattr__` and `__dir__` of a package whose names are imported on first use.

    Args:
        package: the package's `__name__`.
        exports: module below the package ('dataset', 'models.pi') -> the names taken from it.
    """
    homes = {name: module for module, names in exports.items() for name in names}

    def __getattr__(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    def __dir__() -> list[str]:
        return sorted(homes)

    return __getattr__, __dir__
