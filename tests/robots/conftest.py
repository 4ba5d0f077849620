"""Tests with robots behind their real protocols, each in an environment of its own.

`make robot-environments` makes the environments. Without one its tests are skipped, or fail if
FLUX_ROBOTS=required and a package server answered.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = {
    "ros1": (Path("/usr/bin/python3"), "rospy, rosmaster, sensor_msgs.msg"),
    "ros2": (ROOT / ".venv-ros2/bin/python", "rclpy, sensor_msgs.msg"),
    "rtde": (ROOT / ".venv-rtde/bin/python", "rtde_control"),
    "lerobot": (ROOT / ".venv-lerobot-0.4/bin/python", "lerobot"),
}
"""Each environment's interpreter, and what it must be able to import."""

Environment = Callable[[str], Path]


@cache
def fault_of(name: str) -> str:
    """Returns why an environment cannot be used, or ''."""
    python, modules = PYTHONS[name]
    if not python.exists():
        return f"{python} is missing"
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", f"import {modules}"],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def _unreachable() -> list[str]:
    """The environments whose package server did not answer when they were made."""
    note = ROOT / "build" / "robots-unreachable"
    return note.read_text().split() if note.exists() else []


@pytest.fixture(scope="session")
def environment() -> Environment:
    """Returns the interpreter of an environment by its name."""

    def find(name: str) -> Path:
        if fault := fault_of(name):
            text = f"the environment {name} cannot be used ({fault}): run make robot-environments"
            if os.environ.get("FLUX_ROBOTS") == "required" and name not in _unreachable():
                pytest.fail(text)
            pytest.skip(text)
        return PYTHONS[name][0]

    return find


@pytest.fixture(scope="session")
def robot_seconds() -> float:
    """How long a robot is driven: FLUX_ROBOT_SECONDS, 10 by default."""
    return float(os.environ.get("FLUX_ROBOT_SECONDS", "10"))
