"""Generated rooms as cameras see them, and a robot that stands in one: no data set is needed."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.pictures import Reference, colour_shares, least_likeness, thumbnail
from flux_core.robots import ROBOT_SPECS
from flux_runtime.deployment import CameraLook, DeploymentFacts, Observed

SPEC = ROBOT_SPECS["aloha-viperx"]
CAMERAS = ("cam_high", "cam_left_wrist", "cam_right_wrist")
HEIGHT, WIDTH = 96, 128
START = np.array([0.1, -0.96, 1.16, 0.0, -0.4, 0.5, 0.95, -0.5, -0.5, 0.7, 0.4, -0.9, -0.2, 0.05])
"""Of two arms that do not stand alike: the left gripper is open, the right one closed."""
EPISODES = 8


def scene(camera: str, episode: int, *, is_grey: bool = False) -> NDArray[np.uint8]:
    """What a camera sees at the start of an episode: always the same room, objects somewhere."""
    room = np.random.default_rng(zlib.crc32(camera.encode()))
    image = np.zeros((HEIGHT, WIDTH, 3))
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    for _ in range(14):
        _add_blob(image, room, rows, columns, largest=40)
    things = np.random.default_rng((zlib.crc32(camera.encode()), episode))
    for _ in range(3):
        _add_blob(image, things, rows, columns, largest=12)
    image = image.mean(axis=2, keepdims=True).repeat(3, axis=2) if is_grey else image
    return np.clip(40 + image + things.normal(0, 2, image.shape), 0, 255).astype(np.uint8)


def _add_blob(image: Any, rng: np.random.Generator, rows: Any, columns: Any, largest: int) -> None:
    row, column = rng.uniform(0, HEIGHT), rng.uniform(0, WIDTH)
    height, width = rng.uniform(6, largest, 2)
    is_inside = (np.abs(rows - row) < height) & (np.abs(columns - column) < width)
    image[is_inside] = rng.uniform(0, 190, 3)


def shifted(
    image: NDArray[np.uint8], brightness: float, contrast: float, temperature: float
) -> NDArray[np.uint8]:
    """The same under another light; a positive temperature is a warmer one."""
    values = ((np.arange(256.0) - 128) * contrast + 128) * brightness
    factors = (1 + temperature, 1.0, 1 - temperature)
    tables = [np.clip(values * factor, 0, 255).astype(np.uint8) for factor in factors]
    return np.stack([tables[channel][image[..., channel]] for channel in range(3)], axis=-1)


def lights(count: int, seed: int = 0) -> list[tuple[float, float, float]]:
    """Brightness, contrast and temperature of other lights than that of the recordings."""
    rng = np.random.default_rng(seed)
    return [
        (rng.uniform(0.65, 1.4), rng.uniform(0.7, 1.3), rng.uniform(-0.2, 0.2))
        for _ in range(count)
    ]


def start(episode: int) -> NDArray[np.float64]:
    """The state that an episode starts from: an operator places the arms about alike."""
    return START + np.random.default_rng(episode).uniform(-0.03, 0.03, len(START))


def ranges(values: NDArray[np.floating]) -> dict[str, list[float]]:
    """What a bundle says of some (rows, dim) values."""
    low, high = np.quantile(values, [0.01, 0.99], axis=0)
    columns = {"min": values.min(axis=0), "max": values.max(axis=0), "q01": low, "q99": high}
    return {name: column.tolist() for name, column in columns.items()}


def camera_summary(images: Sequence[NDArray[np.uint8]]) -> dict[str, object]:
    """What a bundle says of a camera with these start images."""
    small = [thumbnail(image) for image in images]
    reference = Reference.of(small)
    return {
        "frames": len(images),
        "mean": np.mean(images, axis=(0, 1, 2)).tolist(),
        "contrast": float(np.mean([image.mean(axis=2).std() for image in images])),
        "coloured": np.mean([colour_shares(each) for each in small], axis=0).tolist(),
        "height": images[0].shape[0],
        "width": images[0].shape[1],
        "changing": 1.0,
        "thumbnail": small[0].round().astype(int).tolist(),
        "start": {
            "frames": len(images),
            "average": reference.average.round().astype(int).tolist(),
            "spread": reference.spread.round(1).tolist(),
            "likeness": least_likeness(small),
        },
    }


def summary(*, is_grey: bool = False) -> dict[str, Any]:
    """What a bundle says of a training set of `EPISODES` episodes in these rooms."""
    return json.loads(_summary(is_grey))


@cache
def _summary(is_grey: bool) -> str:
    starts = np.array([start(episode) for episode in range(EPISODES)])
    moved = np.array([[-0.4], [0.0], [0.4]])
    states = np.concatenate([starts + each for each in moved])
    states[:, [6, 13]] = np.clip(states[:, [6, 13]], 0.0, 1.0)
    states[::2, [6, 13]] = [0.02, 0.98]
    said = {
        "fps": SPEC.control_hz,
        "episodes": EPISODES,
        "frames": 100 * EPISODES,
        "state": ranges(states),
        "action": ranges(states),
        "start": {"state": ranges(starts), "action": ranges(starts)},
        "cameras": {
            name: camera_summary(
                [scene(name, episode, is_grey=is_grey) for episode in range(EPISODES)]
            )
            for name in CAMERAS
        },
    }
    return json.dumps(said)


def facts(**changes: Any) -> DeploymentFacts:
    """The same as the check reads it, with some entries replaced."""
    delays = changes.pop("trained_delays", (0, 4, 8))
    return DeploymentFacts.from_summary({**summary(), **changes}, trained_delays=delays)


def observed(episode: int = 100, **changes: Any) -> Observed:
    """A robot at the start of an episode, as it should be, with some entries replaced."""
    images = changes.pop("images", None) or {name: scene(name, episode) for name in CAMERAS}
    looks = {
        name: CameraLook(
            image=image, num_images=30, num_different=29, hz=SPEC.control_hz, newest_age_s=0.03
        )
        for name, image in images.items()
    }
    as_it_should_be: dict[str, Any] = {
        "state": start(episode).astype(np.float32),
        "cameras": looks,
        "duration_s": 1.0,
        "state_hz": SPEC.control_hz,
        "latency_s": 0.05,
    }
    return Observed(**{**as_it_should_be, **changes})
