"""Predicted chunks on the page: some training steps, some frames of one episode per robot."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flux_core.errors import DataError
from flux_core.html import Html, data_block, floats

from ..validation.predictions import EpisodePrediction, load_predictions, prediction_files
from .history import History

logger = logging.getLogger("flux.report")

MAX_STEPS = 24
MAX_BYTES = 1_500_000
"""The size of all predicted chunks together, as floats."""


class SampleBlocks:
    """Predictions at some training steps, by robot."""

    def __init__(self, by_step: dict[int, list[EpisodePrediction]]) -> None:
        self._by_step = by_step
        self._newest: dict[str, EpisodePrediction] = {
            each.group: each for step in sorted(by_step) for each in by_step[step]
        }
        self._comparable = {
            group: [step for step in sorted(by_step) if self._fits(step, newest)]
            for group, newest in self._newest.items()
        }

    def __bool__(self) -> bool:
        return bool(self._newest)

    @property
    def groups(self) -> Sequence[str]:
        """The robots."""
        return list(self._newest)

    def dimensions(self, group: str) -> tuple[str, ...]:
        """Returns the names of a robot's action dimensions; none without predictions for it."""
        return self._newest[group].dimensions if group in self._newest else ()

    def about(self) -> dict[str, Any]:
        """Returns what is the same at every step, by robot."""
        return {
            group: {
                "number": number,
                "episode": each.episode,
                "fps": each.fps,
                "cameras": list(each.cameras),
                "firstStep": each.first_step,
                "horizon": each.predicted.shape[1],
                "frames": each.frames.tolist(),
                "real": each.masks.sum(axis=1).tolist(),
                "recorded": floats(each.actions),
                "steps": self._comparable[group],
            }
            for number, (group, each) in enumerate(self._newest.items())
        }

    def blocks(self) -> Iterator[Html]:
        """Yields the predicted chunks of every step, and the pictures, as blocks of data."""
        for number, (group, newest) in enumerate(self._newest.items()):
            chunks = {
                str(step): floats(each.predicted)
                for step in self._comparable[group]
                for each in self._by_step[step]
                if each.group == group
            }
            yield data_block(f"chunks-{number}", chunks)
            pictures = [
                [base64.b64encode(jpeg).decode("ascii") for jpeg in cameras]
                for cameras in newest.pictures
            ]
            yield data_block(f"pictures-{number}", {"frames": pictures})

    def _fits(self, step: int, newest: EpisodePrediction) -> bool:
        """Returns whether the frames are the same; the held-out data may have changed."""
        return any(
            each.group == newest.group
            and each.predicted.shape == newest.predicted.shape
            and np.array_equal(each.frames, newest.frames)
            and np.array_equal(each.actions, newest.actions)
            for each in self._by_step[step]
        )


def read_samples(work_dir: Path, history: History) -> SampleBlocks:
    """Reads the predictions of evenly spread steps; a damaged file is skipped with a warning.

    Steps that the metrics do not contain belong to an earlier attempt and are skipped too.
    """
    files = prediction_files(work_dir)
    if len(history.validation):
        known = set(history.validation.steps.astype(np.int64).tolist())
        files = {step: path for step, path in files.items() if step in known}
    by_step: dict[int, list[EpisodePrediction]] = {}
    for step in _spread(list(files), _affordable(files)):
        try:
            by_step[step] = load_predictions(files[step])
        except DataError as error:
            logger.warning("%s", error)
    return SampleBlocks(by_step)


def _affordable(files: dict[int, Path]) -> int:
    """Returns how many steps a page of moderate size can show."""
    for path in reversed(files.values()):
        try:
            size = sum(each.predicted.nbytes for each in load_predictions(path))
        except DataError:
            continue
        return int(np.clip(MAX_BYTES // max(size, 1), 2, MAX_STEPS))
    return MAX_STEPS


def _spread(steps: list[int], count: int) -> list[int]:
    places = np.linspace(0, len(steps) - 1, min(count, len(steps))).round().astype(int)
    return [steps[place] for place in places]
