"""What an operator types, sends and holds, without a robot."""

from __future__ import annotations

import os
import pty
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from flux_core.errors import MissingDependencyError, UsageError
from flux_runtime.operator import (
    KeySource,
    LineSource,
    OperatorCommand,
    OperatorDesk,
    open_dead_man,
    opened_desk,
)
from flux_runtime.operator.commands import parse_line

from .conftest import FakeInputDevice

WAIT_S = 30.0


def kinds(found: list[OperatorCommand | str]) -> list[str]:
    return [entry if isinstance(entry, str) else entry.kind for entry in found]


def test_a_line_is_a_word_or_a_task() -> None:
    assert parse_line("").kind == parse_line("  start\r\n").kind == "start"
    assert parse_line("task pick up the cup") == OperatorCommand(
        kind="task", text="pick up the cup"
    )
    for line in ("begin", "task", "pause now"):
        with pytest.raises(UsageError, match="expected one of start, pause, resume, next, task"):
            parse_line(line)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue  # the test has closed it


def test_lines_arrive_in_parts_and_their_end_is_quit(pipe: tuple[int, int]) -> None:
    read, write = pipe
    source = LineSource(read)
    os.write(write, b"star")
    assert source.read() == []
    os.write(write, b"t\nfly\npau")
    assert kinds(source.read()) == ["start", parse_refusal("fly")]
    os.close(write)
    assert kinds(source.read()) == [parse_refusal("pau"), "quit"]
    assert source.has_ended


def parse_refusal(line: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse_line(line)
    return str(caught.value)


def test_nobody_is_there_if_the_input_is_at_its_end_when_the_run_is_ready(
    pipe: tuple[int, int],
) -> None:
    with Path(os.devnull).open() as nothing:
        assert not opened_desk(None, nothing.fileno()).is_attended
    assert not opened_desk(None, 1000).is_attended  # closed
    read, write = pipe
    assert opened_desk(None, read).is_attended
    os.write(write, b"start\n")
    with opened_desk(None, read) as desk:
        command = desk.take(WAIT_S)
        assert isinstance(command, OperatorCommand) and command.kind == "start"
    os.close(write)
    assert not opened_desk(None, read).is_attended


@pytest.fixture
def terminal() -> Iterator[tuple[KeySource, int]]:
    master, slave = pty.openpty()
    source = KeySource(slave)
    before = termios.tcgetattr(slave)
    source.open()
    yield source, master
    source.close()
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def press(terminal: tuple[KeySource, int], keys: bytes) -> list[str]:
    source, master = terminal
    os.write(master, keys)
    return kinds(source.read())


def test_keys_are_commands_at_once(terminal: tuple[KeySource, int]) -> None:
    assert press(terminal, b"\r rnhsfqyx") == [
        *("start", "pause", "resume", "next", "home", "success", "failure", "quit", "yes"),
    ]
    assert press(terminal, b"\x1b[A\x1bOP\x1b[3~ ") == ["pause"]  # cursor and function keys


def test_a_task_is_typed_only_where_space_does_not_have_to_stop_the_robot(
    terminal: tuple[KeySource, int],
) -> None:
    source, _ = terminal
    assert press(terminal, b"ts") == ["pause before you type a task", "success"]
    source.may_type = True
    assert press(terminal, "tgrün s\u00fc".encode()[:-1]) == []  # a letter arrives in two parts
    assert source.typed == "grün s"
    assert press(terminal, b"\xbc\x7f\x7fx\r") == ["task"]
    assert source.typed is None
    assert press(terminal, b"tq\x1b") == []  # dropped
    assert press(terminal, b"t\r") == []
    assert press(terminal, b"tpau") == []
    source.stop_typing()  # the robot begins to move
    assert press(terminal, b" ") == ["pause"]


def test_a_terminal_that_is_gone_is_quit() -> None:
    master, slave = pty.openpty()
    source = KeySource(slave)
    source.open()
    os.close(master)
    assert kinds(source.read()) == ["quit"]
    source.close()
    os.close(slave)


def test_some_commands_stop_the_robot_before_anybody_has_taken_them(pipe: tuple[int, int]) -> None:
    read, write = pipe
    reasons: list[str] = []
    with OperatorDesk(LineSource(read)) as desk:
        desk.begin_motion(reasons.append)
        os.write(write, b"success\npause\npause\n")
        for _ in range(3):
            assert desk.take(WAIT_S) is not None
        assert reasons == ["pause by the operator"]
        assert desk.end_motion()
        os.write(write, b"quit\n")
        assert desk.take(WAIT_S) is not None
        assert len(reasons) == 1  # the robot stands
        desk.put_back(OperatorCommand(kind="pause"))
        desk.begin_motion(reasons.append)  # it was asked for before the robot moved
        assert len(reasons) == 2


def opened(devices: dict[str, FakeInputDevice], text: str) -> tuple[OperatorDesk, FakeInputDevice]:
    desk = OperatorDesk(None, open_dead_man(text))
    return desk, next(iter(devices.values()))


def test_a_released_dead_man_stops_the_robot_at_once(devices: dict[str, FakeInputDevice]) -> None:
    reasons: list[str] = []
    desk, device = opened(devices, "/dev/input/event5:BTN_TRIGGER")
    with desk:
        desk.begin_motion(reasons.append)
        device.press(289, is_held=False)  # another button
        device.press(is_held=False)
        assert desk.take(WAIT_S) == (
            "the dead-man (Pedal BTN_TRIGGER) was released: hold it, then go on"
        )
        assert reasons == ["the dead-man (Pedal BTN_TRIGGER) was released"]
        assert desk.end_motion() and desk.is_held_back
        desk.begin_motion(reasons.append)  # nobody holds it
        assert len(reasons) == 2


def test_a_short_release_counts(devices: dict[str, FakeInputDevice]) -> None:
    dead_man = open_dead_man("/dev/input/event5:288")
    device = devices["/dev/input/event5"]
    assert dead_man.is_held and not dead_man.look()
    device.press(is_held=False)
    device.press()
    assert dead_man.look() and dead_man.is_held
    dead_man.close()


def test_an_unplugged_dead_man_stops_the_robot_and_is_never_held_again(
    devices: dict[str, FakeInputDevice],
) -> None:
    reasons: list[str] = []
    desk, device = opened(devices, "/dev/input/by-path/pci-0:1-event")
    with desk:
        desk.begin_motion(reasons.append)
        device.unplug()
        assert desk.take(WAIT_S) is not None
        assert reasons == ["the dead-man (Pedal) was unplugged"]
        assert desk.is_held_back


def test_a_dead_man_that_is_not_there_is_refused_in_a_line(
    devices: dict[str, FakeInputDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    for text, expected in (
        ("/dev/nothing:BTN_TRIGGER", "--dead-man /dev/nothing: expected an input device"),
        ("/dev/input/event5:BTN_NONE", "expected the name of a button, such as BTN_TRIGGER"),
        ("/dev/input/event5:KEY_A", "got KEY_A. It has: BTN_JOYSTICK, BTN_THUMB"),
    ):
        with pytest.raises(UsageError, match=expected):
            open_dead_man(text)
    monkeypatch.setitem(sys.modules, "evdev", None)
    with pytest.raises(MissingDependencyError, match="pip install evdev"):
        open_dead_man("/dev/input/event5")
