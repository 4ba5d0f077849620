"""Statistics that map robot units to the network's and back.

Both maps are affine, `x_norm = (x - offset) / scale`, so that one pair of vectors serves training,
the exported bundle and the C++ loop.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .errors import DataError

NormType = Literal["mean_std", "quantile", "min_max"]
EPSILON = 1e-6
"""Added to every divisor, and to the inverse's factor, as openpi does (`transforms.py`)."""


@dataclass(frozen=True, kw_only=True)
class FeatureStats:
    """Statistics of one feature: each field has `dim` floats; `count` is the number of frames."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    min: tuple[float, ...]
    max: tuple[float, ...]
    q01: tuple[float, ...]
    q99: tuple[float, ...]
    count: int

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return len(self.mean)

    def affine(self, norm_type: NormType) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns (scale, offset), float32 (dim,), with `x = x_norm * scale + offset`.

        mean_std: (x - mean) / (std + eps); quantile: 2 (x - q01) / (q99 - q01 + eps) - 1;
        min_max: the same with min and max. Values are not clipped.
        """
        if norm_type == "mean_std":
            scale = np.asarray(self.std) + EPSILON
            return scale.astype(np.float32), np.asarray(self.mean, dtype=np.float32)
        low, high = (self.q01, self.q99) if norm_type == "quantile" else (self.min, self.max)
        lower = np.asarray(low, dtype=np.float64)
        scale = (np.asarray(high, dtype=np.float64) - lower + EPSILON) / 2.0
        return scale.astype(np.float32), (lower + scale).astype(np.float32)

    def widened(self, min_range: float) -> FeatureStats:
        """Widens every dimension that spans less than `min_range` to that range.

        Otherwise the jitter of a joint that hardly moves would be scaled up to [-1, 1], and the
        network would spend capacity on it that the other joints need.
        """
        q01, q99 = _spread(self.q01, self.q99, min_range)
        lowest, highest = _spread(self.min, self.max, min_range)
        # The standard deviation of a uniform distribution over that range.
        std = tuple(max(x, min_range / 12**0.5) for x in self.std)
        return replace(self, std=std, q01=q01, q99=q99, min=lowest, max=highest)

    def padded(self, dim: int) -> FeatureStats:
        """Pads the statistics to `dim` dimensions, so that a padded zero is normalised to zero.

        Raises:
            DataError: there are more than `dim` dimensions already.
        """
        missing = dim - self.dim
        if missing < 0:
            raise DataError(f"dim: expected at least {self.dim} (the statistics), got {dim}")
        neutral = {"mean": 0.0, "std": 1.0, "min": -1.0, "max": 1.0, "q01": -1.0, "q99": 1.0}
        columns = {name: (*getattr(self, name), *(x,) * missing) for name, x in neutral.items()}
        return replace(self, **columns)


def _spread(
    lower: tuple[float, ...], upper: tuple[float, ...], min_range: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Moves both ends away from their midpoint until they are at least `min_range` apart."""
    missing = [max(min_range - (high - low), 0.0) for low, high in zip(lower, upper, strict=True)]
    return (
        tuple(low - gap / 2 for low, gap in zip(lower, missing, strict=True)),
        tuple(high + gap / 2 for high, gap in zip(upper, missing, strict=True)),
    )


NormStats = Mapping[str, FeatureStats]
"""Feature key ('proprio', 'action') -> statistics, of one robot."""


def statistics_of(stats: NormStats, key: str) -> FeatureStats:
    """Returns the statistics of `key`; raises DataError if there are none."""
    if key not in stats:
        raise DataError(f"norm_stats: expected statistics of {key!r}, got {sorted(stats)}")
    return stats[key]


def compute_stats(values: NDArray[np.generic]) -> FeatureStats:
    """Exact statistics of `values` (frames, dim)."""
    if values.ndim != 2 or not len(values):
        raise DataError(f"statistics: expected a non-empty (frames, dim) array, got {values.shape}")
    data = values.astype(np.float64)
    if not np.isfinite(data).all():
        row, dim = np.argwhere(~np.isfinite(data))[0]
        raise DataError(
            f"statistics: expected finite numbers, got {data[row, dim]} in frame {row}, "
            f"dimension {dim}"
        )
    low, high = np.quantile(data, [0.01, 0.99], axis=0)
    columns = {
        "mean": data.mean(axis=0),
        "std": data.std(axis=0),
        "min": data.min(axis=0),
        "max": data.max(axis=0),
        "q01": low,
        "q99": high,
    }
    return FeatureStats(
        **{name: tuple(float(x) for x in column) for name, column in columns.items()},
        count=len(data),
    )


def stats_to_json(stats: Mapping[str, NormStats]) -> dict[str, dict[str, dict[str, object]]]:
    """{robot: {feature: FeatureStats}} as plain data."""
    return {
        robot: {key: asdict(feature) for key, feature in features.items()}
        for robot, features in stats.items()
    }


def stats_from_json(data: Mapping[str, Mapping[str, Mapping[str, object]]]) -> dict[str, NormStats]:
    """The inverse of `stats_to_json`; a malformed entry is a DataError naming robot and feature."""
    return {
        robot: {key: _feature_from_json(f"{robot}.{key}", value) for key, value in features.items()}
        for robot, features in data.items()
    }


def _feature_from_json(where: str, value: Mapping[str, object]) -> FeatureStats:
    fields = {name: value.get(name) for name in FeatureStats.__dataclass_fields__}
    missing = [name for name, given in fields.items() if given is None]
    if missing:
        raise DataError(f"norm_stats.{where}: {', '.join(missing)} missing. Compute them again")
    columns = {n: tuple(float(x) for x in v) for n, v in fields.items() if n != "count"}  # type: ignore[union-attr]
    if len({len(column) for column in columns.values()}) != 1:
        raise DataError(
            f"norm_stats.{where}: expected statistics of one length, got different lengths. "
            "Compute them again"
        )
    return FeatureStats(**columns, count=int(fields["count"]))  # type: ignore[arg-type]


def save_stats(path: Path, stats: Mapping[str, NormStats]) -> None:
    """Writes `norm_stats.json`."""
    path.write_text(json.dumps(stats_to_json(stats), indent=1) + "\n")


def load_stats(path: Path) -> dict[str, NormStats]:
    """Reads `norm_stats.json`."""
    return stats_from_json(json.loads(path.read_text()))
