"""Rotations of a state as the first two rows of their matrix, six numbers, as NVIDIA makes them.

A rotation's other forms jump somewhere; these six numbers do not. They lie within -1 and 1 and are
not normalised further. NVIDIA's forms, which `meta/modality.json` calls `rotation_type`:

    axis_angle         the axis times the angle in rad
    quaternion         w, x, y, z; of any length
    euler_angles_rpy   three angles in rad about the axes of the moving body, in the order of the
                       letters: r about x, p about y, y about z; likewise ryp, pry, pyr, yrp and ypr

`matrix` and states that stay `rotation_6d` need no rule of their own: NVIDIA converts neither.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError

RotationRule = Literal[
    "axis_angle_to_rotation_6d",
    "quaternion_to_rotation_6d",
    "euler_angles_rpy_to_rotation_6d",
    "euler_angles_ryp_to_rotation_6d",
    "euler_angles_pry_to_rotation_6d",
    "euler_angles_pyr_to_rotation_6d",
    "euler_angles_yrp_to_rotation_6d",
    "euler_angles_ypr_to_rotation_6d",
]
ENDING = "_to_rotation_6d"
WIDTH = 6
ORDERS = ("rpy", "ryp", "pry", "pyr", "yrp", "ypr")
ROTATION_TYPES = (
    *("axis_angle", "quaternion", "rotation_6d", "matrix"),
    *(f"euler_angles_{order}" for order in ORDERS),
)
"""All that NVIDIA's schema knows."""


def rotation_type_of(rule: str) -> str | None:
    """Returns the form that a rule converts from; None for a rule of another kind."""
    return rule.removesuffix(ENDING) if rule.endswith(ENDING) else None


def width_of_rotation(rotation_type: str) -> int:
    """Returns how many numbers a form has."""
    return {"quaternion": 4, "rotation_6d": WIDTH, "matrix": 9}.get(rotation_type, 3)


def rotation_6d(values: NDArray[Any], rotation_type: str) -> NDArray[np.float32]:
    """Rotations (..., their width) to (..., 6)."""
    matrices = _TO_MATRIX[rotation_type](np.asarray(values, np.float64))
    return matrices[..., :2, :].reshape(*values.shape[:-1], WIDTH).astype(np.float32)


def _from_quaternion(values: NDArray[np.float64]) -> NDArray[np.float64]:
    w, x, y, z = np.moveaxis(values, -1, 0)
    square = (values * values).sum(axis=-1)
    if not square.all():
        raise DataError("rotation: expected quaternions that are not zero, got one that is")
    s = 2.0 / square
    rows = (
        (1.0 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)),
        (s * (x * y + z * w), 1.0 - s * (x * x + z * z), s * (y * z - x * w)),
        (s * (x * z - y * w), s * (y * z + x * w), 1.0 - s * (x * x + y * y)),
    )
    return _stacked(rows)


def _from_axis_angle(values: NDArray[np.float64]) -> NDArray[np.float64]:
    angle = np.linalg.norm(values, axis=-1, keepdims=True)
    half_sinc = 0.5 * np.sinc(angle / (2.0 * np.pi))  # sin(angle / 2) / angle
    return _from_quaternion(np.concatenate((np.cos(angle / 2.0), values * half_sinc), axis=-1))


def _from_euler(values: NDArray[np.float64], order: str) -> NDArray[np.float64]:
    first, second, third = (
        _about(letter, angles)
        for letter, angles in zip(order, np.moveaxis(values, -1, 0), strict=True)
    )
    return first @ second @ third


def _about(letter: str, angles: NDArray[np.float64]) -> NDArray[np.float64]:
    sin, cos = np.sin(angles), np.cos(angles)
    one, zero = np.ones_like(angles), np.zeros_like(angles)
    rows = {
        "r": ((one, zero, zero), (zero, cos, -sin), (zero, sin, cos)),
        "p": ((cos, zero, sin), (zero, one, zero), (-sin, zero, cos)),
        "y": ((cos, -sin, zero), (sin, cos, zero), (zero, zero, one)),
    }
    return _stacked(rows[letter])


def _stacked(rows: tuple[tuple[NDArray[np.float64], ...], ...]) -> NDArray[np.float64]:
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


_TO_MATRIX: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "axis_angle": _from_axis_angle,
    "quaternion": _from_quaternion,
    **{f"euler_angles_{order}": partial(_from_euler, order=order) for order in ORDERS},
}
