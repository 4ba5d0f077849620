"""What the cameras of a training set look like, from a few frames spread over its episodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flux_core.pictures import (
    LUMINANCE,
    Reference,
    colour_shares,
    least_likeness,
    thumbnail,
    thumbnail_shape,
)

from .windows import ParquetDataset

NUM_FRAMES = 32
NUM_STARTS = 24
NUM_PAIRS = 8
"""Episodes whose second frame is compared with the first one."""
FEWEST_STARTS = 3
"""Without so many, nothing is known of how different starts look."""

CAMERA_PREFIX = "observation.images."


def camera_names(group: Sequence[ParquetDataset]) -> tuple[str, ...]:
    """Returns the names of the group's cameras, in the network's order."""
    cameras = group[0].parts[0].frames.cameras
    return tuple(key.removeprefix(CAMERA_PREFIX) for key in cameras)


def summarize_cameras(group: Sequence[ParquetDataset]) -> dict[str, object]:
    """Returns each camera's summary as plain data, in the network's order.

    Over `frames` frames: `mean` is the mean red, green and blue, `contrast` the standard deviation
    of the luminance within a frame, both 0 to 255, and `coloured` the shares of clearly red and of
    clearly blue pixels. `height` and `width` are those of the recording; `thumbnail` is the first
    frame, (height, width, 3) with at most 24 x 32 pixels. `start` describes the first frames of
    episodes: `average` (height, width, 3) and `spread`, the standard deviation of each pixel's
    luminance, over `frames` of them, and how alike to the others the most unusual one is
    (`likeness`). `changing` is the share of episodes whose second frame differs from the first.

    Raises:
        DataError: a frame is missing or cannot be decoded.
    """
    collected = [_Camera() for _ in camera_names(group)]
    spread, starts = _spread_samples(group), _start_samples(group)
    pairs = starts[np.unique(np.linspace(0, len(starts) - 1, NUM_PAIRS).astype(int))]
    wanted = {*spread.tolist(), *starts.tolist(), *(pairs + 1).tolist()}
    is_start, is_spread = {*starts.tolist()}, {*spread.tolist()}
    for index, frames in _frames(group, sorted(wanted)):
        for camera, frame in zip(collected, frames, strict=True):
            camera.add(
                frame,
                is_spread=index in is_spread,
                is_start=index in is_start,
                is_second=index - 1 in is_start,
            )
    named = zip(camera_names(group), collected, strict=True)
    return {name: camera.summary() for name, camera in named if camera.has_frames}


class _Camera:
    """Collects what is kept of one camera's frames, which arrive in order."""

    def __init__(self) -> None:
        self._first: NDArray[np.uint8] | None = None
        self._before: NDArray[np.uint8] | None = None
        self._means: list[NDArray[np.float64]] = []
        self._contrasts: list[float] = []
        self._coloured: list[tuple[float, float]] = []
        self._starts: list[NDArray[np.float32]] = []
        self._changes: list[bool] = []

    @property
    def has_frames(self) -> bool:
        return bool(self._means)

    def add(
        self, frame: NDArray[np.uint8], *, is_spread: bool, is_start: bool, is_second: bool
    ) -> None:
        if is_spread:
            self._first = frame if self._first is None else self._first
            self._means.append(frame.reshape(-1, 3).mean(axis=0))
            self._contrasts.append(float((frame @ LUMINANCE).std()))
            self._coloured.append(colour_shares(thumbnail(frame)))
        if is_second and self._before is not None:
            self._changes.append(not np.array_equal(self._before, frame))
        self._before = frame if is_start else None
        shape = thumbnail_shape(*frame.shape[:2])
        # A recording of another size has another aspect ratio: its pixels cannot be averaged.
        if is_start and (not self._starts or self._starts[0].shape[:2] == shape):
            self._starts.append(thumbnail(frame))

    def summary(self) -> dict[str, object]:
        assert self._first is not None
        height, width = self._first.shape[:2]
        summary: dict[str, object] = {
            "frames": len(self._means),
            "mean": np.mean(self._means, axis=0).round(3).tolist(),
            "contrast": round(float(np.mean(self._contrasts)), 3),
            "coloured": np.mean(self._coloured, axis=0).round(6).tolist(),
            "height": height,
            "width": width,
            "thumbnail": _thumbnail(self._first).tolist(),
        }
        if self._changes:
            summary["changing"] = round(float(np.mean(self._changes)), 3)
        if self._starts:
            summary["start"] = _start(self._starts)
        return summary


def _start(starts: Sequence[NDArray[np.float32]]) -> dict[str, object]:
    reference = Reference.of(starts)
    known: dict[str, object] = {
        "frames": len(starts),
        "average": reference.average.round().astype(int).tolist(),
        "spread": reference.spread.round(1).tolist(),
    }
    if len(starts) >= FEWEST_STARTS:
        known["likeness"] = round(least_likeness(starts), 3)
    return known


def _spread_samples(group: Sequence[ParquetDataset]) -> NDArray[np.int64]:
    """Returns evenly spread samples, counted over all datasets."""
    total = sum(len(dataset) for dataset in group)
    return np.unique(np.linspace(0, total - 1, min(NUM_FRAMES, total)).astype(np.int64))


def _start_samples(group: Sequence[ParquetDataset]) -> NDArray[np.int64]:
    """Returns the first samples of evenly spread episodes, counted over all datasets."""
    ends = np.cumsum([0, *(len(dataset) for dataset in group)])
    firsts = [end + dataset.first_samples() for end, dataset in zip(ends, group, strict=False)]
    starts = np.concatenate(firsts)
    chosen = np.linspace(0, len(starts) - 1, min(NUM_STARTS, len(starts))).astype(int)
    return starts[np.unique(chosen)]


def _frames(
    group: Sequence[ParquetDataset], indices: Sequence[int]
) -> Iterator[tuple[int, list[NDArray[np.uint8]]]]:
    """Yields the frames of all cameras of some samples, as recorded."""
    ends = np.cumsum([len(dataset) for dataset in group])
    for index in indices:
        if index >= int(ends[-1]):
            return
        number = int(np.searchsorted(ends, index, side="right"))
        yield index, group[number].pictures(index - (int(ends[number - 1]) if number else 0))


def _thumbnail(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = thumbnail_shape(*frame.shape[:2])
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BOX))
