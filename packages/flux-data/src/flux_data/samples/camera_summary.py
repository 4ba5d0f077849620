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
NUM_RUNS, RUN_LENGTH = 8, 9
"""Episodes whose first frames are compared with each other, and how many of each."""
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
    (`likeness`). `changing` is the share of episodes whose first frames are not all the same, and
    `image_hz` the rate of those that differ from the one before: recordings repeat the images of a
    slower camera.

    Raises:
        DataError: a frame is missing or cannot be decoded.
    """
    collected = [_Camera() for _ in camera_names(group)]
    total = sum(len(dataset) for dataset in group)
    spread, firsts = set(_evenly(np.arange(total), NUM_FRAMES)), _first_samples(group)
    starts, runs = set(_evenly(firsts, NUM_STARTS)), _runs(firsts, total)
    followers = {index for run in runs for index in run[1:]}
    begins = {run[0] for run in runs}
    for index, frames in _frames(group, sorted(spread | starts | followers | begins)):
        for camera, frame in zip(collected, frames, strict=True):
            if index in spread:
                camera.add(frame)
            if index in starts:
                camera.add_start(frame)
            if index in begins | followers:
                camera.add_to_run(frame, is_first=index in begins)
    fps = group[0].parts[0].source.fps
    named = zip(camera_names(group), collected, strict=True)
    return {name: camera.summary(fps) for name, camera in named if camera.has_frames}


class _Camera:
    """Collects what is kept of one camera's frames, which arrive in order."""

    def __init__(self) -> None:
        self._first: NDArray[np.uint8] | None = None
        self._before: NDArray[np.uint8] | None = None
        self._means: list[NDArray[np.float64]] = []
        self._contrasts: list[float] = []
        self._coloured: list[tuple[float, float]] = []
        self._starts: list[NDArray[np.float32]] = []
        self._changes: list[list[bool]] = []

    @property
    def has_frames(self) -> bool:
        return bool(self._means)

    def add(self, frame: NDArray[np.uint8]) -> None:
        self._first = frame if self._first is None else self._first
        self._means.append(frame.reshape(-1, 3).mean(axis=0))
        self._contrasts.append(float((frame @ LUMINANCE).std()))
        self._coloured.append(colour_shares(thumbnail(frame)))

    def add_start(self, frame: NDArray[np.uint8]) -> None:
        shape = thumbnail_shape(*frame.shape[:2])
        # A recording of another size has another aspect ratio: its pixels cannot be averaged.
        if not self._starts or self._starts[0].shape[:2] == shape:
            self._starts.append(thumbnail(frame))

    def add_to_run(self, frame: NDArray[np.uint8], *, is_first: bool) -> None:
        if is_first or self._before is None:
            self._changes.append([])
        else:
            self._changes[-1].append(not np.array_equal(self._before, frame))
        self._before = frame

    def summary(self, fps: float) -> dict[str, object]:
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
        if runs := [run for run in self._changes if run]:
            summary["changing"] = round(float(np.mean([any(run) for run in runs])), 3)
            summary["image_hz"] = round(fps * float(np.median([np.mean(run) for run in runs])), 3)
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


def _evenly(indices: NDArray[np.int64], count: int) -> list[int]:
    """Returns at most `count` of some indices, evenly spread, the first and the last included."""
    places = np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(int)
    return indices[np.unique(places)].tolist()


def _first_samples(group: Sequence[ParquetDataset]) -> NDArray[np.int64]:
    """Returns the first sample of each episode, counted over all datasets."""
    begins = np.cumsum([0, *(len(dataset) for dataset in group)])
    firsts = [begin + each.first_samples() for begin, each in zip(begins, group, strict=False)]
    return np.concatenate(firsts)


def _runs(firsts: NDArray[np.int64], total: int) -> list[list[int]]:
    """Returns the first samples of some episodes, in a row."""
    ends = np.append(firsts[1:], total)
    chosen = _evenly(np.arange(len(firsts)), NUM_RUNS)
    return [list(range(int(firsts[i]), int(min(ends[i], firsts[i] + RUN_LENGTH)))) for i in chosen]


def _frames(
    group: Sequence[ParquetDataset], indices: Sequence[int]
) -> Iterator[tuple[int, list[NDArray[np.uint8]]]]:
    """Yields the frames of all cameras of some samples, as recorded."""
    ends = np.cumsum([len(dataset) for dataset in group])
    for index in indices:
        number = int(np.searchsorted(ends, index, side="right"))
        yield index, group[number].pictures(index - (int(ends[number - 1]) if number else 0))


def _thumbnail(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = thumbnail_shape(*frame.shape[:2])
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BOX))
