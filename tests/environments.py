"""Environments of their own for what tests run beside flux: robots' drivers, openpi's client.

`make robot-environments` makes them. Without one its tests are skipped, or fail if
FLUX_ROBOTS=required and a package server answered.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = {
    "ros1": (Path("/usr/bin/python3"), "rospy, rosmaster, sensor_msgs.msg"),
    "ros2": (ROOT / ".venv-ros2/bin/python", "rclpy, sensor_msgs.msg"),
    "rtde": (ROOT / ".venv-rtde/bin/python", "rtde_control"),
    "lerobot": (ROOT / ".venv-lerobot-0.4/bin/python", "lerobot"),
    "openpi": (ROOT / ".venv-openpi/bin/python", "openpi_client.websocket_client_policy"),
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


def find_environment(name: str) -> Path:
    """Returns an environment's interpreter; skips the test, or fails it, without one."""
    if fault := fault_of(name):
        text = f"the environment {name} cannot be used ({fault}): run make robot-environments"
        if os.environ.get("FLUX_ROBOTS") == "required" and name not in _unreachable():
            pytest.fail(text)
        pytest.skip(text)
    return PYTHONS[name][0]


def _unreachable() -> list[str]:
    """The environments whose package server did not answer when they were made."""
    note = ROOT / "build" / "robots-unreachable"
    return note.read_text().split() if note.exists() else []
