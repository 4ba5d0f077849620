"""A ROS system with a test robot of two arms, and runs against it."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.pictures import LUMINANCE, Reference, colour_shares, least_likeness, thumbnail
from flux_core.robots import ROBOT_SPECS

from ..policy import write_bundle
from ..ros1 import RosSystem, only, read_log
from ..runs import Run

NODE = Path(__file__).parent / "node.py"
LISTENER = Path(__file__).parents[1] / "listener.py"
SPEC = ROBOT_SPECS["aloha-agilex"]
REST = [0.1, 1.2, -1.0, 0.1, 0.2, -0.3, 0.06, -0.1, 1.3, -0.9, 0.2, 0.1, 0.3, 0.07]
PAIRS, RADIUS = [(0, 1), (7, 8)], 0.2
STILL = [2, 3, 4, 5, 6]
PERIOD_S = 1 / SPEC.control_hz
NUM_STARTS = 6
OPERATOR = {
    "type": "AlohaOperator",
    "img_front_topic": "/camera_f/color/image_raw",
    "img_front_depth_topic": "/camera_f/depth/image_raw",
}


@dataclass(frozen=True)
class Outcome:
    """A run, what its robot wrote down, and when a robot that was stopped went on."""

    run: Run
    log: list[dict[str, Any]]
    folder: Path
    resumed_s: float = 0.0

    def commands(self, side: str = "left") -> list[dict[str, Any]]:
        """What the robot was told."""
        return only(self.log, "command", side=side)

    def stamps(self, side: str = "left") -> NDArray[np.float64]:
        """When each command was sent, by the driver's clock."""
        return np.array([line["stamp"] for line in self.commands(side)])

    def values(self, side: str = "left") -> NDArray[np.float64]:
        """Where each command sends the arm's joints, (N, 7)."""
        return np.array([line["position"] for line in self.commands(side)])


class Scene:
    """A ROS system with a test robot, and a bundle for it."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.folder = folder
        self.ros = RosSystem(python, folder)
        self.bundle = self._write_bundle("bundle", {})

    def use_facts(self) -> None:
        """Uses a bundle that says what it was trained on: this robot, which must be running."""
        self.bundle = self._write_bundle("bundle_with_facts", self._summary())

    def _write_bundle(self, name: str, summary: Mapping[str, Any]) -> Path:
        return write_bundle(
            self.folder / name,
            dataclasses.asdict(SPEC),
            rest=REST,
            pairs=PAIRS,
            radius=RADIUS,
            inference={"type": "AlohaInferenceRunner", "operator": OPERATOR},
            data_summary=summary,
        )

    def _summary(self) -> dict[str, Any]:
        """What training writes about recordings of this robot."""
        low, high = np.array(REST) - 0.02, np.array(REST) + 0.02
        start = _ranges(low, high)
        for first, second in PAIRS:
            low[first] -= 2 * RADIUS
            low[second], high[second] = low[second] - RADIUS, high[second] + RADIUS
        pictures = {
            camera: np.load(self.folder / f"robot.jsonl.{name}.npy")
            for camera, name in zip(SPEC.cameras, ("f", "l", "r"), strict=True)
        }
        return {
            "fps": SPEC.control_hz,
            "episodes": NUM_STARTS,
            "state": _ranges(low, high),
            "action": _ranges(low, high),
            "start": {"state": start},
            "cameras": {name: _camera_facts(picture) for name, picture in pictures.items()},
        }

    @property
    def log(self) -> list[dict[str, Any]]:
        """The robot's log so far."""
        return read_log(self.folder / "robot.jsonl")

    @contextmanager
    def robot(self, *arguments: str, faults: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
        """Runs the test robot meanwhile."""
        log = str(self.folder / "robot.jsonl")
        start = ("--start", json.dumps(REST), "--faults", json.dumps(faults))
        with self.ros.node(NODE, log, *start, *arguments) as process:
            yield process

    def arguments(self, seconds: float) -> list[str]:
        """The arguments of a run."""
        return [
            *("--robot", "aloha-agilex", "--bundle", str(self.bundle), "--episodes", "1"),
            *("--max-steps", str(round(seconds / PERIOD_S)), "--mode", "async", "--json"),
        ]

    def wait_until(self, seconds: float) -> None:
        """Waits until so long after the first command."""
        end_s = time.monotonic() + 60
        while not (found := only(self.log, "command")):
            assert time.monotonic() < end_s, "the robot gets no commands"
            time.sleep(0.05)
        time.sleep(max(0.0, found[0]["time_ns"] / 1e9 + seconds - time.monotonic()))


def _ranges(low: NDArray[np.float64], high: NDArray[np.float64]) -> dict[str, list[float]]:
    return {"min": low.tolist(), "max": high.tolist(), "q01": low.tolist(), "q99": high.tolist()}


def _camera_facts(picture: NDArray[np.uint8]) -> dict[str, Any]:
    """What training writes about a camera that shows this picture in lights of some brightness."""
    lights = np.linspace(0.9, 1.1, NUM_STARTS)
    starts = [thumbnail((picture * light).clip(0, 255).astype(np.uint8)) for light in lights]
    reference = Reference.of(starts)
    return {
        "frames": NUM_STARTS,
        "mean": picture.reshape(-1, 3).mean(axis=0).tolist(),
        "contrast": float((picture @ LUMINANCE).std()),
        "coloured": list(colour_shares(starts[0])),
        "height": picture.shape[0],
        "width": picture.shape[1],
        "thumbnail": starts[0].round().astype(int).tolist(),
        "changing": 1.0,
        "start": {
            "frames": NUM_STARTS,
            "average": reference.average.round().astype(int).tolist(),
            "spread": reference.spread.round(1).tolist(),
            "likeness": round(least_likeness(starts), 3),
        },
    }
