"""The parts of the driver host: messages, readings, events, the gate, turns and entry points."""

from __future__ import annotations

import os
import socket
import threading
import time
from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flux_driver import robot as robot_module
from flux_driver.calls import BoundedCall
from flux_driver.events import Events
from flux_driver.gate import Gate
from flux_driver.messages import MAX_BYTES, Channel
from flux_driver.parent import Parent
from flux_driver.readings import CaptureTimes, ReadingError, checked_image, checked_state
from flux_driver.robot import DriverError, load_robot
from flux_driver.stepped import SteppedRobot, Turns, progress_bits

from .fakes import Simulated


def channels() -> tuple[Channel, Channel]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(ours), Channel(theirs)


def test_a_message_arrives_whole_with_its_descriptor() -> None:
    ours, theirs = channels()
    reading, writing = os.pipe()
    assert ours.send({"kind": "map", "id": 3, "values": np.arange(2)}, writing)
    message, descriptor = theirs.receive()
    assert message == {"kind": "map", "id": 3, "values": [0, 1]}
    assert descriptor is not None
    os.write(descriptor, b"x")
    assert os.read(reading, 1) == b"x"
    for number in (reading, writing, descriptor):
        os.close(number)


def test_a_channel_says_that_there_is_nothing_or_nobody() -> None:
    ours, theirs = channels()
    with pytest.raises(BlockingIOError):
        theirs.receive()
    ours.close()
    with pytest.raises(EOFError):
        theirs.receive()
    with pytest.raises(OSError):
        theirs.send({"kind": "event"})


def test_what_is_not_a_message_is_refused() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(theirs)
    for data in (b"rubbish", b"[1]", b"{}", b"\xff"):
        ours.send(data)
        with pytest.raises(ValueError):
            channel.receive()
    with pytest.raises(OSError, match="bytes, limit"):
        channel.send({"kind": "x" * MAX_BYTES})


def test_a_side_that_does_not_read_holds_nobody_up() -> None:
    ours, _theirs = channels()
    while ours.send({"kind": "event", "text": "x" * 10_000}):
        pass


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_state_becomes_float32(kind: Any) -> None:
    state = checked_state(np.array([1, 2], kind), ("a", "b"))
    assert state.dtype == np.float32 and state.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("values", "name", "text"),
    [
        (np.zeros(3, np.float32), "wrong_type", r"expected float32 or float64 \(2,\), got float32"),
        (np.zeros(2, np.int64), "wrong_type", "got int64"),
        (None, "wrong_type", "got object"),
        (np.array([0, np.inf]), "state_not_finite", "b: expected a finite number"),
        (np.array([1e300, 0]), "state_not_finite", "a: expected"),
    ],
)
def test_a_state_that_no_policy_may_see_is_refused(values: Any, name: str, text: str) -> None:
    with pytest.raises(ReadingError, match=text) as caught:
        checked_state(values, ("a", "b"))
    assert caught.value.name == name


def test_an_image_with_gaps_in_memory_becomes_whole() -> None:
    image = checked_image(np.zeros((4, 8, 3), np.uint8)[:, ::2], "top")
    assert image.flags.c_contiguous and image.shape == (4, 4, 3)


def test_capture_times_have_to_advance_and_to_be_on_the_monotonic_clock() -> None:
    times, now_s = CaptureTimes("top"), time.monotonic()
    assert times.accept(now_s - 30.0)  # old, which is for the control loop to judge
    assert not times.accept(now_s - 30.0)
    assert times.accept(now_s - 1.0)
    assert times.accept(now_s + 0.04)  # an estimate; it counts as now
    assert times.newest_ns <= time.monotonic_ns()
    for wrong in (now_s + 0.2, time.time(), np.nan, -np.inf, 0.0, None, now_s - 2.0):
        with pytest.raises(ReadingError, match="top: capture time"):
            times.accept(wrong)


def test_an_event_is_told_at_once_and_then_counted() -> None:
    now_s = [100.0]
    events = Events(now_s=lambda: now_s[0])
    told = []
    for _ in range(30):  # eight a second
        events.report("send_failed", "send(): busy")
        told += events.due()
        now_s[0] += 0.125
    assert [event["count"] for event in told] == [1, 8, 8, 8]
    events.tell("stopped", "one")
    events.tell("stopped", "two")
    assert [event["text"] for event in events.due()] == ["one", "two"]


def test_the_gate_lets_nothing_through_after_it_was_closed() -> None:
    gate = Gate()
    assert not gate.enter(0) and not gate.enter(1)
    gate.open(1)
    assert gate.enter(1)
    assert gate.close() and not gate.close()
    assert not gate.wait_until_sent(0.01)  # a command that was let through still hangs
    gate.leave()
    assert gate.wait_until_sent(1.0)
    assert not gate.enter(1)


def test_a_bounded_call_has_an_end() -> None:
    released = threading.Event()
    call = BoundedCall("stop", released.wait, 0.02)
    assert call.wait(30.0) and call.fault == "stop(): expected an end within 0.02 s, got none"
    released.set()

    def leave() -> None:
        raise SystemExit("no")

    call = BoundedCall("stop", leave, 30.0)
    assert call.wait(30.0) and call.fault == "stop(): SystemExit: no"


def test_the_end_of_a_process_is_seen_with_and_without_pidfd() -> None:
    pid = os.fork()
    if pid == 0:
        threading.Event().wait()
    parent = Parent(pid)
    assert parent.is_alive()
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    assert not parent.is_alive()
    os.close(parent.descriptor)
    parent.descriptor = -1
    assert not parent.is_alive()


def test_a_command_goes_before_a_picture() -> None:
    turns, order = Turns(), []
    busy, free = threading.Event(), threading.Event()

    def work(name: str, turn: Any) -> None:
        with turn():
            order.append(name)
            if name == "first":
                busy.set()
                free.wait()

    threads = [threading.Thread(target=work, args=("first", turns.urgent))]
    threads[0].start()
    busy.wait()
    for name, turn in (("picture", turns.patient), ("command", turns.urgent)):
        threads.append(threading.Thread(target=work, args=(name, turn)))
        threads[-1].start()
        while not turns._num_urgent and name == "command":
            pass
    free.set()
    for thread in threads:
        thread.join()
    assert order == ["first", "command", "picture"]


def test_a_simulated_robot_looks_like_a_real_one() -> None:
    simulated = Simulated()
    robot = SteppedRobot(simulated)
    robot.connect()
    before_s = time.monotonic()
    state, time_s = robot.read_state()
    assert state.tolist() == [0, 0] and before_s <= time_s <= time.monotonic()
    robot.send(np.zeros(2, np.float32), 0.0)
    image, time_s = robot.read_frames(["top"])["top"]
    assert image.max() == 1 and before_s <= time_s <= time.monotonic()
    assert progress_bits(robot.stages) == 0b10
    robot.stop(2)
    robot.close()


@pytest.mark.parametrize(("period_s", "expected"), [(0.02, 12), (0.005, 3), (0.008, 4)])
def test_a_simulated_robot_keeps_its_own_rate_however_many_commands_come(
    period_s: float, expected: int
) -> None:
    simulated = Simulated()
    robot = SteppedRobot(simulated)
    robot.connect()
    robot.expect_commands(period_s)
    for value in range(12):
        robot.send(np.full(2, value, np.float32), 0.0)
    state, _ = robot.read_state()
    assert state[0] == pytest.approx(0.1 * expected)
    robot.reset(0)
    assert robot.read_state()[0][0] == 0


def points(*values: str) -> list[EntryPoint]:
    return [EntryPoint(name="arm", value=value, group=robot_module.GROUP) for value in values]


@pytest.mark.parametrize("is_old", [True, False])
def test_an_entry_point_is_found_with_old_and_new_metadata(
    is_old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until Python 3.9, all entry points come as a dict."""
    found = points(f"{Simulated.__module__}:Simulated")
    new = SimpleNamespace(select=lambda group: found if group == robot_module.GROUP else [])
    offered = {robot_module.GROUP: found} if is_old else new
    monkeypatch.setattr(robot_module.metadata, "entry_points", lambda: offered)
    assert type(load_robot("arm")).__name__ == "Simulated"
    with pytest.raises(DriverError, match="leg: no such robot in this interpreter"):
        load_robot("leg")


def test_two_providers_of_one_robot_are_both_named(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = {robot_module.GROUP: points("a:A", "b:B")}
    monkeypatch.setattr(robot_module.metadata, "entry_points", lambda: offered)
    with pytest.raises(DriverError, match="expected one provider in .* got a:A and b:B"):
        load_robot("arm")


def test_a_robot_may_be_named_by_its_class_or_be_an_object() -> None:
    module = f"{Simulated.__module__}"
    assert type(load_robot(f"{module}:Simulated")).__name__ == "Simulated"
    for target, expected in (
        (f"{module}:nothing", "cannot be loaded .AttributeError"),
        (f"{module}:PATIENCE_S", "cannot be called: it is float"),
        (
            f"{module}:command",
            "--robot-config: expected 'sequence', got nothing. Add it to the file",
        ),
    ):
        with pytest.raises(DriverError, match=expected):
            load_robot(target)
