"""The memory between the policy's process and a robot driver's, with a real second process."""

from __future__ import annotations

import ast
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flux_driver
from flux_driver import CommandResult, DriverMemory, DriverMemoryError, DriverPhase, WatchResult
from flux_runtime import _core

SOURCES = Path(__file__).resolve().parents[2] / "packages" / "flux-runtime" / "src" / "flux_driver"
NEWEST_LIBC = (2, 31)  # Ubuntu 20.04, on which ROS Noetic runs
CONTROL_HZ = 1.0
"""So slow that a busy machine does not make either side silent for three periods."""

# A driver as another interpreter runs it: the package comes from a folder, the library by its path.
DRIVER = """
import importlib.util, json, os, sys, time
folder, library, fd = sys.argv[1], sys.argv[2], int(sys.argv[3])
spec = importlib.util.spec_from_file_location(
    "flux_driver", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
)
package = sys.modules["flux_driver"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
import numpy as np

memory = package.DriverMemory(fd, library=library)
height, width = memory.layout.cameras[0]
now = time.monotonic_ns()
memory.publish_frame(0, np.full((height, width, 3), 9, np.uint8), now)
memory.publish_state(np.zeros(memory.layout.state_dim), now)
memory.begin(1)
memory.set_phase(package.DriverPhase.READY)
received, watched = [], None
while not watched or watched.result is package.WatchResult.FINE:
    memory.beat()
    command = memory.wait_command(0.01)
    if command and command.result is package.CommandResult.COMMAND:
        memory.publish_state(command.values, time.monotonic_ns())
        memory.acknowledge(command)
        received.append([command.sequence, float(command.values[0])])
    watched = memory.watch()
memory.set_phase(package.DriverPhase.STOPPED)
flux = [name for name in sys.modules if name.startswith("flux_") and "driver" not in name]
print(json.dumps([sys.version_info[:2], flux, received, watched.result.name, watched.category]))
"""


def _link(**changes: object) -> _core.SharedMemoryLink:
    arguments = dict(
        action_dim=2, state_dim=2, cameras=[(4, 6)], control_hz=CONTROL_HZ, max_step=[0.1, 0.1]
    )
    return _core.SharedMemoryLink(**(arguments | changes))  # pyright: ignore[reportArgumentType]


@pytest.fixture
def link() -> _core.SharedMemoryLink:
    return _link()


@pytest.fixture
def memory(link: _core.SharedMemoryLink) -> Iterator[DriverMemory]:
    memory = DriverMemory(link.fd())
    yield memory
    memory.close()


def _other_interpreters() -> Iterator[str]:
    """Yields other versions of Python that may be installed, then what FLUX_DRIVER_PYTHON lists."""
    yield from filter(None, os.environ.get("FLUX_DRIVER_PYTHON", "").split(os.pathsep))
    for minor in (8, 9, 10, 12, 13, 14):
        if found := shutil.which(f"python3.{minor}"):
            yield found
    yield "/usr/bin/python3"


def _suitable_interpreter() -> str | None:
    """Returns another interpreter that has numpy; None if there is none."""
    own = tuple(sys.version_info[:2])
    wanted = f"import sys, numpy; v = sys.version_info[:2]; sys.exit(v < (3, 8) or v == {own})"
    for path in _other_interpreters():
        command = [path, "-I", "-c", wanted]
        if Path(path).is_file() and not subprocess.run(command, capture_output=True).returncode:
            return path
    return None


def _drive(link: _core.SharedMemoryLink, python: str) -> list[Any]:
    """Runs a session over a driver in a process of `python`; returns what the driver printed."""
    arguments = [str(SOURCES), flux_driver.library_path(), str(link.fd())]
    driver = subprocess.Popen(
        [python, "-I", "-c", DRIVER, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[link.fd()],
    )
    try:
        while link.status()["phase"] != "ready":
            assert driver.poll() is None, "the driver ended before it was ready"
            time.sleep(0.01)
        link.announce("running", session=1)
        for sequence in range(1, 11):
            command = np.full(2, sequence / 50, np.float32)
            link.send(command, sequence=sequence, session=1, tick_ns=0, observed_ns=0)
            while link.status()["acknowledged"] < sequence:
                assert driver.poll() is None and link.status()["session"] == 1, link.status()
                link.beat()
        link.announce("stopped", session=1, category=1)
        printed, _ = driver.communicate(timeout=30)
    finally:
        driver.kill()
        driver.wait()
    return json.loads(printed)


def _check_drive(link: _core.SharedMemoryLink, python: str) -> tuple[int, ...]:
    version, flux, received, watched, category = _drive(link, python)
    assert flux == []
    assert received == [[i, float(np.float32(i / 50))] for i in range(1, 11)]
    assert (watched, category) == ("STOP", 1)
    state, captured_ns, frames = link.observe([0])
    assert state.tolist() == [np.float32(0.2)] * 2
    image, _ = frames[0]
    assert image.shape == (4, 6, 3) and (image == 9).all()
    assert 0 < captured_ns <= time.monotonic_ns()
    status = link.status()
    assert (status["phase"], status["acknowledged"], status["session"]) == ("stopped", 0, 0)
    return tuple(version)


def test_a_driver_in_another_process_executes_and_acknowledges_commands() -> None:
    _check_drive(_link(), sys.executable)


def test_a_driver_runs_in_another_version_of_python() -> None:
    python = _suitable_interpreter()
    if python is None:
        pytest.skip("no other Python 3.8 or newer with numpy; FLUX_DRIVER_PYTHON may name one")
    version = _check_drive(_link(), python)
    assert version != sys.version_info[:2]


def test_the_package_is_written_for_python_3_8_and_numpy_alone() -> None:
    modules = sorted(SOURCES.rglob("*.py"))
    assert modules
    standard = sys.stdlib_module_names | {"numpy", "flux_driver"}
    for path in modules:
        tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))
        imported = {
            name.split(".")[0]
            for node in ast.walk(tree)
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom) and not node.level
                else []
            )
        }
        if path.parent == SOURCES:  # rooms of robots' drivers: tests/test_architecture.py
            assert imported <= standard, path


def test_the_library_needs_nothing_but_an_old_libc() -> None:
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("no readelf: install binutils")
    command = [readelf, "--dynamic", "--version-info", "--wide", flux_driver.library_path()]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"\(NEEDED\).*\[(.*)\]", printed) == ["libc.so.6"]
    versions = re.findall(r"Name: (\w+?)_([0-9.]+)", printed)
    assert versions and {name for name, _ in versions} == {"GLIBC"}
    assert max(tuple(map(int, number.split("."))) for _, number in versions) <= NEWEST_LIBC


def test_a_memory_of_another_version_is_refused_in_one_line(link: _core.SharedMemoryLink) -> None:
    header = bytearray(os.pread(link.fd(), os.fstat(link.fd()).st_size, 0))
    header[8:12] = (7).to_bytes(4, sys.byteorder)
    fd = os.memfd_create("other", os.MFD_ALLOW_SEALING)
    try:
        os.write(fd, header)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        with pytest.raises(DriverMemoryError, match=r"version: expected 2, got 7\. Use the driver"):
            DriverMemory(fd)
    finally:
        os.close(fd)


def test_what_is_no_driver_memory_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        with pytest.raises(DriverMemoryError, match="expected a memfd sealed against resizing"):
            DriverMemory(file.fileno())
        with pytest.raises(DriverMemoryError, match="cannot be loaded"):
            DriverMemory(file.fileno(), library=str(tmp_path / "missing.so"))


def test_wrong_arrays_are_refused_with_both_shapes(memory: DriverMemory) -> None:
    with pytest.raises(DriverMemoryError, match=r"expected shape \(2,\), got \(3,\)"):
        memory.publish_state(np.zeros(3), 1)
    with pytest.raises(DriverMemoryError, match=r"uint8 \(4, 6, 3\), got uint8 \(6, 4, 3\)"):
        memory.publish_frame(0, np.zeros((6, 4, 3), np.uint8), 1)
    with pytest.raises(DriverMemoryError, match=r"uint8 \(4, 6, 3\), got float64"):
        memory.publish_frame(0, np.zeros((4, 6, 3)), 1)
    with pytest.raises(DriverMemoryError, match="expected an index below 1, got 1"):
        memory.publish_frame(1, np.zeros((4, 6, 3), np.uint8), 1)


def test_an_image_in_another_memory_order_arrives_as_it_is(
    link: _core.SharedMemoryLink, memory: DriverMemory
) -> None:
    image = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    memory.publish_frame(0, image[::-1, ::-1], 5)
    found, captured_ns = link.observe([0])[2][0]
    np.testing.assert_array_equal(found, image[::-1, ::-1])
    assert captured_ns == link.frame_captured_ns(0) == 5


def test_commands_of_an_ended_session_are_ignored(
    link: _core.SharedMemoryLink, memory: DriverMemory
) -> None:
    at_rest = np.zeros(2, np.float32)
    stamps = dict(sequence=1, tick_ns=0, observed_ns=0)
    memory.publish_state(at_rest, 1)
    for session in (1, 5):
        memory.begin(session)
        link.announce("running", session=session)
        memory.end()
        link.send(at_rest, session=session, **stamps)
        command = memory.wait_command(0)
        assert command is not None and command.result is CommandResult.OTHER_SESSION
    with pytest.raises(DriverMemoryError, match="session: expected a number above"):
        memory.begin(5)
    assert memory.counters().refused_sessions == link.status()["refused_sessions"] == 2


def test_a_jump_at_the_start_is_refused_with_its_joint(
    link: _core.SharedMemoryLink, memory: DriverMemory
) -> None:
    memory.publish_state(np.array([0.0, 1.0]), 1)
    memory.begin(1)
    link.announce("running", session=1)
    jump = np.array([0.0, 1.5], np.float32)
    link.send(jump, sequence=1, session=1, tick_ns=0, observed_ns=0)
    command = memory.wait_command(0)
    assert command is not None and command.result is CommandResult.STEP
    assert (command.joint, command.step, command.max_step) == (1, 0.5, pytest.approx(0.3))


def test_a_policy_that_closes_is_noticed(
    link: _core.SharedMemoryLink, memory: DriverMemory
) -> None:
    assert memory.watch().result is WatchResult.FINE
    link.announce("closed", session=0)
    assert memory.watch().result is WatchResult.CLOSED


def test_a_dead_driver_stays_dead(link: _core.SharedMemoryLink, memory: DriverMemory) -> None:
    memory.set_phase(DriverPhase.READY)
    link.set_dead()
    assert link.status()["is_alive"] is False


def test_a_closed_memory_says_so(memory: DriverMemory) -> None:
    memory.close()
    with pytest.raises(DriverMemoryError, match="expected an open one, got a closed one"):
        memory.beat()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(action_dim=0, state_dim=0, max_step=[]), "action_dim: expected 1 to 1024, got 0"),
        (dict(max_step=[0.1, float("nan")]), r"max_step\[1\]: expected a finite number above 0"),
        (dict(max_step=[0.1]), "length of max_step: expected 2, got 1"),
        (dict(cameras=[(0, 6)]), "image height: expected 1 to 16384, got 0"),
        (dict(control_hz=0.0), "control_hz: expected"),
    ],
)
def test_values_that_a_memory_cannot_have_are_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _link(**changes)
