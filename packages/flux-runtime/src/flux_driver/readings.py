"""Checks what a driver returns, before anybody else sees it."""

from __future__ import annotations

import math
import time
from typing import Any, Sequence

import numpy as np

FUTURE_S = 0.05
"""How far a capture time may lie ahead of the clock: cameras estimate theirs."""


class ReadingError(Exception):
    """A value that no policy may see.

    Attributes:
        name: the kind of fault, as events name it.
    """

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


def as_pair(found: Any, call: str) -> tuple[Any, Any]:
    """Returns the value and the capture time of what a driver returned.

    Raises:
        ReadingError: it is not a pair.
    """
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        raise ReadingError(
            "wrong_type", f"{call}: expected (value, time_s), got {type(found).__name__}"
        )
    return found[0], found[1]


def checked_state(values: Any, names: Sequence[str]) -> Any:
    """Returns a state as (state_dim,) float32.

    Args:
        values: what the driver returned.
        names: the names of the state's dimensions.

    Raises:
        ReadingError: it has another type or length, or a number is not finite.
    """
    dim = len(names)
    array = values if isinstance(values, np.ndarray) else np.asarray(values)
    if array.dtype not in (np.float32, np.float64) or array.shape != (dim,):
        raise ReadingError(
            "wrong_type",
            f"read_state(): expected float32 or float64 ({dim},), got {array.dtype} {array.shape}",
        )
    with np.errstate(over="ignore"):  # what does not fit is infinite, and refused below
        state = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(state).all():
        index = int(np.flatnonzero(~np.isfinite(state))[0])
        raise ReadingError(
            "state_not_finite",
            f"read_state(): {names[index]}: expected a finite number, got {array[index]}",
        )
    return state


def checked_scaling(share: Any) -> float:
    """Returns a robot's speed scaling as a share of its commanded speed, 0 to 1.

    Raises:
        ReadingError: it is not a number, or another one.
    """
    try:
        found = float(share)
    except (TypeError, ValueError) as error:
        raise ReadingError(
            "wrong_type", f"speed_scaling(): expected a number, got {type(share).__name__}"
        ) from error
    if not 0.0 <= found <= 1.0:
        raise ReadingError(
            "speed_scaling",
            f"speed_scaling(): expected a share from 0 to 1, got {found:g}. The state that was "
            f"read with it is not used",
        )
    return found


def checked_image(image: Any, camera: str) -> Any:
    """Returns an image as contiguous (height, width, 3) uint8.

    Raises:
        ReadingError: it has another type or shape, or no pixels.
    """
    if not isinstance(image, np.ndarray):
        raise ReadingError(
            "wrong_type",
            f"{camera}: expected uint8 (height, width, 3), got {type(image).__name__}",
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ReadingError(
            "wrong_image",
            f"{camera}: expected uint8 (height, width, 3), got {image.dtype} {image.shape}",
        )
    return np.ascontiguousarray(image)


class CaptureTimes:
    """Judges the capture times of one source.

    Attributes:
        newest_ns: the newest capture time that was accepted; 0 if none.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self.newest_ns = 0

    def accept(self, time_s: Any) -> bool:
        """Returns whether a capture time is newer than those before it.

        Raises:
            ReadingError: it is not finite, in the future, or before the one accepted last.
        """
        now_s = time.monotonic()
        try:
            stamp_s = float(time_s)
        except (TypeError, ValueError) as error:
            raise ReadingError(
                "capture_time",
                f"{self._source}: capture time: expected seconds, got {time_s!r:.60}",
            ) from error
        if not math.isfinite(stamp_s) or stamp_s > now_s + FUTURE_S or stamp_s <= 0:
            raise ReadingError(
                "capture_time",
                f"{self._source}: capture time: expected at most {now_s:.3f} s (time.monotonic()), "
                f"got {stamp_s:.3f}",
            )
        stamp_ns = round(min(stamp_s, now_s) * 1e9)
        if stamp_ns < self.newest_ns:
            raise ReadingError(
                "capture_time",
                f"{self._source}: capture time: expected no step back from "
                f"{self.newest_ns / 1e9:.3f} s, got {stamp_s:.3f}",
            )
        is_new = stamp_ns > self.newest_ns
        self.newest_ns = stamp_ns
        return is_new
