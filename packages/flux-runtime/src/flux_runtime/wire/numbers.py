"""Numbers from a stranger: finite, of one shape, and nothing else."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from flux_core.bundle import Manifest

from .bounds import WireError, shown

LARGEST = 1e30
"""The largest number: it and the difference of two are finite in float32."""


def finite_vector(where: str, value: object, *, most: int = 4096) -> NDArray[np.float32]:
    """Returns a number, a list of numbers or a vector as (N,) float32.

    Raises:
        WireError: it is something else, longer than `most`, or not finite.
    """
    values: list[object] = cast(list[object], value) if isinstance(value, list) else [value]
    if isinstance(value, np.ndarray | np.generic):
        array = np.atleast_1d(cast(NDArray[Any], value))
        expected = array.ndim == 1 and array.dtype.kind in "fiu"
    else:
        # At most `most` of a list are looked at, and true and false are not numbers.
        expected = len(values) <= most and all(_is_number(entry) for entry in values)
        array = np.asarray(values if expected else [], np.float64)
    if not expected:
        raise WireError(f"{where}: expected numbers, got {shown(value)}")
    if array.size > most:
        raise WireError(f"{where}: expected at most {most} numbers, got {array.size}")
    return finite(where, array)


def finite_matrix(
    where: str, value: object, shape: tuple[int | None, int], *, most_rows: int = 4096
) -> NDArray[np.float32]:
    """Returns an array of floats of a shape as float32; None stands for up to `most_rows`.

    Raises:
        WireError: it is something else, or not finite.
    """
    if not isinstance(value, np.ndarray):
        raise WireError(f"{where}: expected an array, got {shown(value)}")
    array = cast(NDArray[Any], value)
    fits = array.ndim == 2 and array.shape[1] == shape[1] and shape[0] in (None, array.shape[0])
    if not fits or array.dtype.kind != "f" or len(array) > most_rows:
        rows = f"at most {most_rows}" if shape[0] is None else shape[0]
        raise WireError(f"{where}: expected {rows} rows of {shape[1]} floats, got {shown(value)}")
    return finite(where, array)


def finite(where: str, array: NDArray[Any]) -> NDArray[np.float32]:
    """Returns an array as float32, contiguous and writable.

    Raises:
        WireError: a value is not finite, or so large that differences of float32 would not be.
    """
    # Compared before the conversion, so that nothing overflows; NaN compares as false.
    if array.size and not (np.abs(array.astype(np.float64, copy=False)) <= LARGEST).all():
        raise WireError(f"{where}: expected finite numbers, got NaN, infinity or larger than 1e30")
    return np.array(array, np.float32, order="C")


def noise_of(value: object, manifest: Manifest) -> NDArray[np.float32] | None:
    """Returns the noise of an inference, (action_horizon, action_dim of the network) float32.

    Args:
        value: that, also with a leading 1; None: none is given.
        manifest: of the policy.

    Raises:
        WireError: it is something else.
    """
    if value is None:
        return None
    if isinstance(value, np.ndarray) and value.ndim == 3 and value.shape[0] == 1:
        value = value[0]
    return finite_matrix("noise", value, (manifest.action_horizon, manifest.action_dim))


def _is_number(value: object) -> bool:
    is_plain = isinstance(value, int | float) and not isinstance(value, bool)
    return is_plain or (isinstance(value, np.generic) and value.dtype.kind in "fiu")
