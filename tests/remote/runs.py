"""Runs of `flux-runtime run --remote` on the simulated ALOHA, and what they recorded."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

import numpy as np

from flux_core.robots import robot_spec
from flux_runtime.engines.core import load_core

from ..robots.runs import Run, finish, running

ROBOT = robot_spec("aloha-sim")
LIMIT_S = 240.0


@dataclass(frozen=True)
class Drive:
    """A run that goes on; `folder` is its recording."""

    process: Popen[str]
    folder: Path

    def wait_until_it_moves(self, seconds: float, limit_s: float = 120.0) -> None:
        """Waits until the first episode has lasted for so long."""
        end_s = time.monotonic() + limit_s
        while not any(path.stat().st_size for path in self.folder.glob("episode_*.stream")):
            assert self.process.poll() is None, finish(self.process, 5).errors
            assert time.monotonic() < end_s, "no episode began"
            time.sleep(0.02)
        time.sleep(seconds)

    def finished(self, limit_s: float = LIMIT_S) -> Run:
        """Waits for its end."""
        return finish(self.process, limit_s)


@contextmanager
def driving(
    folder: Path, url: str | None, *arguments: str, inside: Sequence[str] = ()
) -> Iterator[Drive]:
    """Drives the simulated robot meanwhile, with RTC, one episode unless told otherwise.

    Args:
        folder: where it is recorded; is made.
        url: of the server; None for the same policy in the robot's own process.
        arguments: further ones.
        inside: words before the command.
    """
    words = ["--robot", ROBOT.name, "--mode", "rtc", "--json", "--record", str(folder)]
    words += [] if url is None else ["--remote", url]
    words += [] if "--episodes" in arguments else ["--episodes", "1"]
    with running(*words, *arguments, environment=os.environ, inside=inside) as process:
        yield Drive(process, folder)


def commands(folder: Path) -> list[Any]:
    """Returns the commands of every recorded episode, each (T, action_dim)."""
    return [np.load(path)["command"] for path in sorted(folder.glob("episode_*.npz"))]


def seconds_held(folder: Path) -> float:
    """Returns for how long the first episode's robot was held once it had moved."""
    with np.load(sorted(folder.glob("episode_*.npz"))[0]) as recorded:
        is_held = recorded["flags"] & load_core().HELD != 0
    first = int(np.argmin(is_held))
    return float(np.count_nonzero(is_held[first:]) / ROBOT.control_hz)
