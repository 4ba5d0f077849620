"""What config.json and norm_stats.json may say, checked before anything is made of them."""

from __future__ import annotations

from typing import Any

from ..errors import BundleError
from .checks import fail, integer, mapping, number, record, sequence, show

_MAX_DIMS = 1024
_LARGEST = 1e30
"""Finite in float32, and so is the difference of two."""
_VALUES = sequence(number(-_LARGEST, _LARGEST), low=1, high=_MAX_DIMS)
_FEATURE = {
    **dict.fromkeys(("mean", "min", "max", "q01", "q99"), _VALUES),
    "std": sequence(number(0.0, _LARGEST), low=1, high=_MAX_DIMS),
    "count": integer(0, 2**63),
}


def check_config(data: dict[str, Any]) -> None:
    """Refuses an inference section that names code by its path instead of a registered component.

    Raises:
        BundleError: reading the section would import whatever module the bundle names.
    """
    pending: list[tuple[str, object]] = [("inference", data.get("inference"))]
    while pending:
        where, value = pending.pop()
        if isinstance(value, dict):
            name = value.get("type")
            if isinstance(name, str) and ":" in name:
                raise BundleError(
                    f"config.json: {where}.type: {show(name)} is the path of a class. A bundle may "
                    f"only name registered components (entry point group flux.components)."
                )
            pending += [(f"{where}.{show(key)[1:-1]}", entry) for key, entry in value.items()]
        elif isinstance(value, list):
            pending += [(f"{where}[{index}]", entry) for index, entry in enumerate(value)]


def check_norm_stats(data: dict[str, Any]) -> None:
    """Refuses anything but {robot: {feature: statistics}} of finite numbers.

    Raises:
        BundleError: with the place in the file.
    """
    mapping(mapping(_feature))("norm_stats.json", data)


def _feature(where: str, value: Any) -> None:
    feature = record(where, value, _FEATURE)
    dims = {len(feature[name]) for name in _FEATURE if name != "count"}
    if len(dims) > 1:
        fail(where, "lists of one length", sorted(dims))
