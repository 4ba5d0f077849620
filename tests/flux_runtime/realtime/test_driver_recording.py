"""A driver host that hands what its sensors deliver to a recording process, too."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import flux_driver.host as host_module
from flux_driver.memory import DriverPhase

from .fakes import Arm, Desk


@pytest.fixture
def desks() -> Iterator[Callable[..., Desk]]:
    made: list[Desk] = []

    def make(robot: Any) -> Desk:
        made.append(Desk(robot))
        return made[-1]

    yield make
    for desk in made:
        for thread in (*desk.host._threads, *filter(None, [desk.host._extras_reader])):
            thread.end()


class WithExtras(Arm):
    """Delivers depth and the velocity of a base, or what a test puts in their place."""

    extras = {  # noqa: RUF012
        "top_depth": {"kind": "depth"},
        "base": {"kind": "vector", "names": ["linear", "angular"]},
    }

    def read_extras(self) -> Any:
        at_s = time.monotonic()
        found = {
            "top_depth": (np.full((4, 6), 7, np.uint16), at_s),
            "base": (np.array([0.5, -0.5]), at_s),
        }
        return found | (self._begin("read_extras") or {})


def recorded(desk: Desk) -> tuple[dict[str, Any], socket.socket]:
    """Asks for a recording; returns the answer and the recording process's end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        answer = desk.ask("record", descriptor=os.dup(theirs.fileno()))
    return answer, ours


def frames_of(connection: socket.socket) -> list[tuple[str, int]]:
    """The streams' names and capture times of what has arrived."""
    connection.setblocking(False)
    names, found = dict[int, str](), list[tuple[str, int]]()
    while True:
        try:
            data, descriptors, _, _ = socket.recv_fds(connection, 1 << 17, 1)
        except BlockingIOError:
            return found
        for descriptor in descriptors:
            os.close(descriptor)
        message = json.loads(data)
        if message["kind"] == "stream":
            names[message["stream"]] = message["name"]
        else:
            found.append((names[message["stream"]], message["time_ns"]))


def test_a_recording_gets_every_image_before_the_policy_can_see_it(desks: Any) -> None:
    desk = desks(WithExtras())
    desk.connect(cameras=("top",))
    answer, connection = recorded(desk)
    with connection:
        count = len(desk.memory.frames)
        desk.turn_until(lambda: len(desk.memory.frames) >= count + 5)
        published = {captured_ns for _, _, captured_ns in desk.memory.frames[count:]}
        handed = frames_of(connection)
    assert answer["result"] == {
        "cameras": {"top": [4, 6]},
        "extras": {
            "top_depth": {"kind": "depth", "names": [], "shape": [4, 6]},
            "base": {"kind": "vector", "names": ["linear", "angular"], "shape": [2]},
        },
    }
    assert published <= {at_ns for name, at_ns in handed if name == "top"}
    assert {name for name, _ in handed} == {"top", "top_depth", "base"}


def test_an_extra_that_never_arrives_is_refused(
    desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_module, "FIRST_S", 0.5)
    robot = WithExtras()
    robot.faults["read_extras"] = lambda: {"top_depth": (np.zeros((4, 6), np.float32), 1.0)}
    desk = desks(robot)
    desk.connect(cameras=("top",))
    answer, connection = recorded(desk)
    connection.close()
    assert answer["error"] == (
        "record: expected top_depth within 0.5 s, got none (top_depth: expected (height, width) "
        "uint16, millimetres, got float32 (4, 6))"
    )


def test_a_driver_whose_extras_fail_goes_on(desks: Any) -> None:
    robot = WithExtras()
    desk = desks(robot)
    desk.connect(cameras=("top",))
    _, connection = recorded(desk)
    with connection:
        robot.faults["read_extras"] = lambda: 1 / 0
        count = len(desk.memory.frames)
        desk.turn_until(lambda: len(desk.memory.frames) >= count + 20)
    assert desk.failed() == []
    assert desk.memory.phases[-1] == DriverPhase.READY


@pytest.mark.parametrize(
    ("extras", "told"),
    [
        ({"top": {"kind": "sound"}}, "extras: top: expected the kind depth or vector, got sound"),
        ({"base": {"kind": "vector"}}, "extras: base: expected the names of its values, got none"),
        (["base"], "extras: expected {name: {kind}}, got list"),
    ],
)
def test_extras_of_another_kind_are_refused(desks: Any, extras: Any, told: str) -> None:
    robot: Any = WithExtras()
    robot.extras = extras
    desk = desks(robot)
    desk.connect(cameras=("top",))
    answer, connection = recorded(desk)
    connection.close()
    assert answer["error"] == told
