"""What a bundle says of the data it was trained with, as far as a robot can be compared with it.

The manifest comes from a stranger and may be old: what it does not say is None here, and what it
says in another form than expected is treated as not said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from flux_core.bundle import Manifest
from flux_core.pictures import Reference, colour_shares

OF_ANY_UNIT = ("fps", "episodes", "cameras")
"""What a summary says of no joint."""

Vector = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """The range of each dimension, (dim,) each: extremes, and the quantiles 0.01 and 0.99."""

    least: Vector
    most: Vector
    low: Vector
    high: Vector

    @property
    def dim(self) -> int:
        """The number of dimensions."""
        return len(self.least)

    @property
    def middle(self) -> Vector:
        """Half-way between the quantiles."""
        return (self.low + self.high) / 2

    @classmethod
    def of(cls, data: object, dim: int | None = None) -> Self | None:
        """Reads {min, max, q01, q99}; None if it is not that, or not of `dim` dimensions."""
        if not isinstance(data, Mapping):
            return None
        columns = [_vector(data.get(name)) for name in ("min", "max", "q01", "q99")]
        found = [column for column in columns if column is not None]
        sizes = {len(column) for column in found}
        if len(found) < len(columns) or len(sizes) > 1 or (dim is not None and sizes != {dim}):
            return None
        least, most, low, high = found
        return cls(least=least, most=most, low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class CameraFacts:
    """What one camera showed in training; None for what the bundle does not say.

    Attributes:
        size: height and width of the recorded images.
        mean: red, green and blue, 0 to 255.
        contrast: the standard deviation of the luminance within an image.
        coloured: the shares of clearly red and of clearly blue pixels.
        changing: the share of episodes whose first images are not all the same.
        image_hz: images per second that differ from the one before, at the start of episodes.
        start: what the first images of episodes show.
        num_starts: the images that `start` summarises.
        likeness: how alike to the others the most unusual of these is, in shape.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    contrast: float | None = None
    coloured: tuple[float, float] | None = None
    changing: float | None = None
    image_hz: float | None = None
    start: Reference | None = None
    num_starts: int = 0
    likeness: float | None = None

    @classmethod
    def of(cls, data: object) -> Self:
        """Reads one entry of the summary's `cameras`."""
        entry: Mapping[str, Any] = data if isinstance(data, Mapping) else {}
        start, num_starts, likeness = _start(entry)
        mean, coloured = _vector(entry.get("mean")), _vector(entry.get("coloured"))
        height, width = _number(entry.get("height")), _number(entry.get("width"))
        return cls(
            size=(round(height), round(width)) if height and width else None,
            mean=tuple(mean.tolist()) if mean is not None and len(mean) == 3 else None,
            contrast=_number(entry.get("contrast")),
            coloured=(
                (float(coloured[0]), float(coloured[1]))
                if coloured is not None and len(coloured) == 2
                else _colours_of_one(start if num_starts == 1 else None, mean)
            ),
            changing=_number(entry.get("changing")),
            image_hz=_number(entry.get("image_hz")),
            start=start,
            num_starts=num_starts,
            likeness=likeness,
        )


@dataclass(frozen=True, kw_only=True)
class DeploymentFacts:
    """What a bundle says of its training set; None for what it does not say.

    Attributes:
        fps: frames per second of the recordings.
        episodes: their number.
        state, action: ranges in the robot's units.
        start: the same of the states that episodes start from.
        grippers: name -> its closed and open values, of the state if known, else of the action.
        cameras: by the robot's names, in the network's order.
        trained_delays: the inference delays, in control steps, that it was trained for.
        execution_horizon: steps of a chunk that are executed; None if that is not known.
        may_change_rate: whether its config allows another rate than that of the recordings.
    """

    fps: float | None = None
    episodes: int = 0
    state: Ranges | None = None
    action: Ranges | None = None
    start: Ranges | None = None
    grippers: Mapping[str, tuple[float, float]] = field(
        default_factory=dict[str, tuple[float, float]]
    )
    cameras: Mapping[str, CameraFacts] = field(default_factory=dict[str, CameraFacts])
    trained_delays: tuple[int, ...] = (0,)
    execution_horizon: int | None = None
    may_change_rate: bool = False

    @property
    def are_known(self) -> bool:
        """Whether the bundle says anything of its training set."""
        return bool(self.cameras) or self.state is not None

    @classmethod
    def of(cls, manifest: Manifest, config: Mapping[str, Any] | None = None) -> Self:
        """Reads them from a bundle's manifest and config.json."""
        section = (config or {}).get("inference")
        may_change = section.get("allow_rate_change") if isinstance(section, Mapping) else None
        # Older summaries are in the units of the recordings, which transforms that only training
        # runs may have changed.
        has_changed = bool(manifest.provenance.get("training_only"))
        return cls.from_summary(
            manifest.data_summary,
            state_dim=manifest.state_dim,
            trained_delays=manifest.rtc_valid_delays,
            execution_horizon=manifest.execution_horizon,
            may_change_rate=may_change is True,
            are_robot_units=not has_changed or "robot_units" in manifest.data_summary,
        )

    @classmethod
    def from_summary(
        cls,
        summary: Mapping[str, Any],
        *,
        state_dim: int | None = None,
        trained_delays: tuple[int, ...] = (0,),
        execution_horizon: int | None = None,
        may_change_rate: bool = False,
        are_robot_units: bool = True,
    ) -> Self:
        """Reads them from the summary of a training set; see `Manifest.data_summary`."""
        cameras, start = _mapping(summary, "cameras"), _mapping(summary, "start")
        if not are_robot_units:
            summary = {key: summary[key] for key in OF_ANY_UNIT if key in summary}
            start = {}
        return cls(
            fps=_number(summary.get("fps")),
            episodes=round(_number(summary.get("episodes")) or 0),
            state=Ranges.of(summary.get("state"), state_dim),
            action=Ranges.of(summary.get("action")),
            start=Ranges.of(start.get("state"), state_dim),
            grippers=_grippers(_mapping(summary, "grippers")),
            cameras={name: CameraFacts.of(entry) for name, entry in cameras.items()},
            trained_delays=trained_delays,
            execution_horizon=execution_horizon,
            may_change_rate=may_change_rate,
        )


def _start(entry: Mapping[str, Any]) -> tuple[Reference | None, int, float | None]:
    """Returns what first images show, of how many, and their least likeness."""
    start = _mapping(entry, "start")
    average, spread = _array(start.get("average"), 3), _array(start.get("spread"), 2)
    if average is not None and spread is not None and average.shape == (*spread.shape, 3):
        reference = Reference(average=average, spread=spread)
        return reference, round(_number(start.get("frames")) or 1), _number(start.get("likeness"))
    thumbnail = _array(entry.get("thumbnail"), 3)  # all that older bundles have
    if thumbnail is None or thumbnail.shape[2] != 3 or min(thumbnail.shape) < 2:
        return None, 0, None
    return Reference.of([thumbnail]), 1, None


def _colours_of_one(start: Reference | None, mean: Vector | None) -> tuple[float, float] | None:
    """Returns the shares of red and of blue pixels in the only picture of an older bundle, if the
    mean of its other images agrees with what is more common."""
    if start is None or mean is None or len(mean) != 3:
        return None
    red, blue = colour_shares(start.average)
    return (red, blue) if (red > blue) == (mean[0] > mean[2]) else None


def _grippers(data: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    found: dict[str, tuple[float, float]] = {}
    for name in data:
        entry = _mapping(data, name)
        values = _mapping(entry, "state") or _mapping(entry, "action")
        closed, opened = _number(values.get("closed")), _number(values.get("open"))
        if closed is not None and opened is not None:
            found[name] = closed, opened
    return found


def _mapping(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key)
    return value if isinstance(value, Mapping) else {}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None


def _vector(value: object) -> Vector | None:
    return _array(value, 1)


def _array(value: object, ndim: int) -> Vector | None:
    if not isinstance(value, list | tuple):
        return None
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        return None
    return array if array.ndim == ndim and array.size and np.isfinite(array).all() else None
