"""Controllers of UR arms that cannot be driven: said in one line, before anything moves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from flux_core.errors import RobotError
from flux_core.robots import ROBOT_SPECS
from flux_runtime.realtime import DriverProcess

from .conftest import Environment
from .ros1 import read_log
from .ur.runs import Fault, address, controller

REFUSED: dict[str, tuple[Sequence[Fault], str]] = {
    "silent": (
        [{"kind": "silent", "at": -1}],
        "port 30004 accepts connections and does not answer",
    ),
    "local": ([{"kind": "local", "at": -1}], "enable remote control"),
    "off": ([{"kind": "off", "at": -1}], "expected the mode running, got power off"),
    "stopped": ([{"kind": "protective_stop", "at": -1}], "the arm is in a protective stop"),
}
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
        arguments={"spec": spec, "host": host, "controller_timeout_s": 2.0},
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
