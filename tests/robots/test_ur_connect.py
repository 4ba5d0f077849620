"""The driver of UR arms alone: controllers that cannot be driven, and a stop that is no end."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from flux_core.errors import RobotError
from flux_core.robots import ROBOT_SPECS
from flux_runtime.realtime import DriverProcess

from ..environments import ROOT, Environment
from .ros1 import read_log
from .ur.runs import Fault, address, controller

STOPS_AND_GOES_ON = """
import json, sys
import numpy as np
from flux_driver.ur.rtde import UrRtdeDriver
driver = UrRtdeDriver(spec=json.loads(sys.argv[1]), host=sys.argv[2])
driver.connect()
for _ in range(2):
    state, _ = driver.read_state()
    for _ in range(5):
        state[0] += 0.002
        driver.send(state, 0.0)
        driver.read_state()
    driver.stop(2)
driver.close()
"""
REFUSED: dict[str, tuple[Sequence[Fault], str]] = {
    "silent": (
        [{"kind": "silent", "at": -1}],
        "port 30004 accepts connections and does not answer",
    ),
    "local": ([{"kind": "local", "at": -1}], "enable remote control"),
    "off": ([{"kind": "off", "at": -1}], "expected the mode running, got power off"),
    "stopped": ([{"kind": "protective_stop", "at": -1}], "the arm is in a protective stop"),
}
SOURCES = ROOT / "packages" / "flux-runtime" / "src"
Faults = Callable[[str], str]


@pytest.fixture(scope="module")
def fault(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    """Returns what was said when a driver was connected to one of these controllers."""
    python = environment("rtde")
    folder = tmp_path_factory.mktemp("refused")

    def refused(name: str) -> str:
        (folder / name).mkdir()
        with controller(folder / name, REFUSED[name][0]) as host:
            text = connect(python, host)
        assert not [line for line in read_log(folder / name / "log.jsonl") if "q" in line]
        return text

    with ThreadPoolExecutor(len(REFUSED)) as pool:
        found: dict[str, Future[str]] = {name: pool.submit(refused, name) for name in REFUSED}
        yield lambda name: found[name].result()


def connect(python: Path, host: str) -> str:
    """Connects a driver, and returns why that is not possible."""
    spec = dataclasses.asdict(ROBOT_SPECS["ur3"])
    driver = DriverProcess.start(
        "ur3",
        target="flux_driver.ur.rtde:UrRtdeDriver",
        arguments={"spec": spec, "host": host, "controller_timeout_s": 4.0},
        python=python,
    )
    try:
        with pytest.raises(RobotError) as info:
            driver.connect(())
    finally:
        driver.close()
    return str(info.value)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_driven_is_refused_with_its_reason(fault: Faults, name: str) -> None:
    text = fault(name)

    assert REFUSED[name][1] in text
    assert text.startswith("ur3: connect(): 127.")
    assert "\n" not in text


def test_an_address_without_a_controller_is_named(environment: Environment) -> None:
    host = address()

    assert f"Could not connect to: {host} at 30004" in connect(environment("rtde"), host)


def test_after_a_stop_the_arm_can_be_commanded_again(
    environment: Environment, tmp_path: Path
) -> None:
    python = environment("rtde")
    spec = json.dumps(dataclasses.asdict(ROBOT_SPECS["ur3"]))
    with controller(tmp_path) as host:
        subprocess.run(
            [python, "-c", STOPS_AND_GOES_ON, spec, host],
            env={"PYTHONPATH": str(SOURCES)},
            check=True,
            timeout=120,
        )
    heard = [line["what"] for line in read_log(tmp_path / "log.jsonl")]

    first, second = (index for index, what in enumerate(heard) if what == "servo_stop")
    assert heard[:first].count("servoj") == 5
    assert heard[first:second].count("servoj") == 5
    assert "program_ended" in heard[second:]
