"""`validation/step_N.npz`: predicted and recorded chunks, for the training report."""

from __future__ import annotations

import json
import os
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError

DAMAGE = (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error)
"""What reading a damaged file may raise."""

ARRAYS = ("frames", "predicted", "recorded", "masks", "actions")


@dataclass(frozen=True, kw_only=True)
class EpisodePrediction:
    """What a policy predicts at some frames of a held-out episode; actions in robot units.

    Attributes:
        group: the robot's group of datasets.
        episode: index of the episode in its dataset.
        fps: its frames per second.
        dimensions: names of the A action dimensions.
        cameras: their names.
        first_step: a chunk's step k belongs to the action `frame + first_step + k`.
        frames: (F,) int64.
        predicted: (F, H, A) float32 chunks.
        recorded: (F, H, A) float32 chunks.
        masks: (F, H) bool, False after the episode's end.
        actions: (T, A) float32, all recorded actions of the episode.
        pictures: for each frame, one JPEG per camera.
    """

    group: str
    episode: int
    fps: float
    dimensions: tuple[str, ...]
    cameras: tuple[str, ...]
    first_step: int
    frames: NDArray[np.int64]
    predicted: NDArray[np.float32]
    recorded: NDArray[np.float32]
    masks: NDArray[np.bool_]
    actions: NDArray[np.float32]
    pictures: Sequence[Sequence[bytes]]


def save_predictions(path: Path, predictions: Sequence[EpisodePrediction]) -> None:
    """Writes one .npz atomically; `about` is JSON, and pictures are the bytes of their JPEGs."""
    about: list[dict[str, Any]] = []
    arrays: dict[str, Any] = {}
    for number, each in enumerate(predictions):
        stored = ("group", "episode", "fps", "dimensions", "cameras", "first_step")
        about.append({name: getattr(each, name) for name in stored})
        arrays.update({f"{number}.{name}": getattr(each, name) for name in ARRAYS})
        for frame, pictures in enumerate(each.pictures):
            for camera, jpeg in enumerate(pictures):
                arrays[f"{number}.picture.{frame}.{camera}"] = np.frombuffer(jpeg, np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            np.savez_compressed(file, about=np.array(json.dumps(about)), **arrays)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_predictions(path: Path) -> list[EpisodePrediction]:
    """Reads what `save_predictions` wrote.

    Raises:
        DataError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            return [_prediction(file, number, each) for number, each in enumerate(about)]
    except DAMAGE as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _prediction(file: Any, number: int, about: dict[str, Any]) -> EpisodePrediction:
    arrays = {name: file[f"{number}.{name}"] for name in ARRAYS}
    cameras = range(len(about["cameras"]))
    pictures = [
        [file[f"{number}.picture.{frame}.{camera}"].tobytes() for camera in cameras]
        for frame in range(len(arrays["frames"]))
    ]
    names = {key: tuple(about.pop(key)) for key in ("dimensions", "cameras")}
    return EpisodePrediction(**about, **names, **arrays, pictures=pictures)


def prediction_path(work_dir: Path, step: int) -> Path:
    """The file that holds a step's predictions."""
    return work_dir / "validation" / f"step_{step}.npz"


def prediction_files(work_dir: Path) -> dict[int, Path]:
    """Step -> file, in ascending order of steps."""
    found = {
        int(match[1]): path
        for path in (work_dir / "validation").glob("step_*.npz")
        if (match := re.fullmatch(r"step_(\d+)\.npz", path.name))
    }
    return dict(sorted(found.items()))
