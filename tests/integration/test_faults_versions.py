"""A driver's package of another version than the policy's: the memory between them differs."""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flux_core.errors import RobotError
from flux_runtime.realtime import DriverProcess

from .fake_arm.judge import ArmLog
from .fake_arm.runs import ROBOT, arm, environment

VERSION = slice(8, 12)
"""Where the header of the shared memory has its version, after the magic."""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A driver that is not connected yet, and its arm."""
    with arm(tmp_path):
        for name, value in environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        with DriverProcess.start(ROBOT) as process:
            yield process


def test_shared_memory_of_another_version_is_refused(
    driver: DriverProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flux_runtime import _core

    def of_another_version(**fields: Any) -> Any:
        link = _core.SharedMemoryLink(**fields)
        with mmap.mmap(link.fd(), 0) as memory:
            memory[VERSION] = (int.from_bytes(memory[VERSION], "little") + 1).to_bytes(4, "little")
        return link

    another = SimpleNamespace(SharedMemoryLink=of_another_version)
    monkeypatch.setattr("flux_runtime.realtime.driver_process.load_core", lambda: another)
    with pytest.raises(RobotError, match=r"version: expected \d+, got \d+") as refused:
        driver.connect(("top", "wrist"))
    assert "\n" not in str(refused.value)
    driver.close()
    log = ArmLog.read(tmp_path / "log.jsonl")
    assert log.commands == [] and log.times("close")


def test_memory_that_is_not_ours_is_refused() -> None:
    from flux_driver.memory import DriverMemory, DriverMemoryError

    descriptor = os.memfd_create("not-ours", os.MFD_ALLOW_SEALING)
    os.write(descriptor, bytes(4096))
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    with pytest.raises(DriverMemoryError, match="magic"):
        DriverMemory(descriptor)
    os.close(descriptor)
