"""Recordings of an arm that goes round in a circle, and a policy that predicts this circle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flux_core.robots import RobotSpec
from flux_data.lerobot import WRITERS
from flux_data.lerobot.recorder import EpisodeRecorder, robot_features, video_key

from ...robots.policy import LEAD_S, write_bundle

SPEC = RobotSpec(
    name="round",
    joint_names=("shoulder", "elbow", "gripper"),
    lower=(-1.0, -1.0, 0.0),
    upper=(1.0, 1.0, 1.0),
    max_velocity=(4.0, 4.0, 4.0),
    units=("rad", "rad", "normalized"),
    cameras=("top",),
    control_hz=10.0,
)
RADIUS, RATE_RAD_S, OPENING, OFF = 0.2, 1.0, 0.5, 0.125
LENGTHS, TASKS = (30, 20), ("circle", "circle left")


def on_circle(steps: NDArray[Any]) -> NDArray[np.float32]:
    """(N, 3) poses at some control steps, which may be fractions."""
    angle = RATE_RAD_S * np.asarray(steps) / SPEC.control_hz
    rows = [RADIUS * np.cos(angle), RADIUS * np.sin(angle), np.full_like(angle, OPENING)]
    return np.stack(rows, axis=1).astype(np.float32)


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Two episodes, in a format of LeRobot's. The elbow's recorded actions are off by `OFF`."""
    made: dict[str, Path] = {}

    def write(version: str) -> Path:
        root = tmp_path_factory.mktemp("recordings") / "set"
        features = robot_features(SPEC, 32, 32)
        settings = {"fps": SPEC.control_hz, "robot_type": SPEC.name, "features": features}
        with WRITERS[version](root, **settings) as writer:
            for episode, (length, task) in enumerate(zip(LENGTHS, TASKS, strict=True)):
                steps = np.arange(length) + 7 * episode
                states = on_circle(steps)
                # What the policy's first row is, LEAD_S and one step ahead.
                ahead = on_circle(steps + 1 + LEAD_S * SPEC.control_hz)
                actions = ahead + np.array([0, OFF, 0], np.float32)
                staging = writer.staging(str(episode))
                with EpisodeRecorder(staging, SPEC.control_hz, features) as recorder:
                    for step in range(length):
                        grey = 8 * step + 100 * episode
                        recorder.add(
                            {
                                "observation.state": states[step],
                                "action": actions[step],
                                video_key("top"): np.full((32, 32, 3), grey % 256, np.uint8),
                            }
                        )
                    writer.add(recorder.close(task))
        return root

    def get(version: str) -> Path:
        if version not in made:
            made[version] = write(version)
        return made[version]

    return get


@pytest.fixture(scope="session")
def circling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that predicts the circle."""
    folder = tmp_path_factory.mktemp("circling") / "bundle"
    rest = (RADIUS, 0.0, OPENING)
    pairs = [(0, 1)]
    return write_bundle(
        folder, asdict(SPEC), rest=rest, pairs=pairs, radius=RADIUS, rate_rad_s=RATE_RAD_S
    )
