"""The driver host, turned by hand in this process, with a memory and robots of the tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import flux_driver.host as host_module
from flux_driver.commands import CommandStamp
from flux_driver.memory import CommandResult, DriverMemoryError, DriverPhase, Watch, WatchResult

from .fakes import Arm, Desk, Simulated, command


@pytest.fixture
def desks() -> Iterator[Callable[..., Desk]]:
    made: list[Desk] = []

    def make(robot: Any = None, **settings: Any) -> Desk:
        made.append(Desk(robot or Arm(), **settings))
        return made[-1]

    yield make
    for desk in made:
        for thread in desk.host._threads:
            thread.end()


def test_connect_gives_the_image_sizes_and_the_first_readings(desks: Any) -> None:
    desk = desks()
    answer = desk.ask("connect", cameras=["top", "wrist"])
    assert answer["result"] == {"cameras": {"top": [4, 6], "wrist": [4, 6]}}
    assert desk.memory.states == []
    assert "result" in desk.ask("map")
    np.testing.assert_array_equal(desk.memory.states[0][0], np.array([0.1, 0.2], np.float32))
    assert [frame[0] for frame in desk.memory.frames[:2]] == [0, 1]
    assert desk.memory.phases == [DriverPhase.CONNECTING, DriverPhase.READY]


def test_readings_are_paced_and_carry_their_capture_times(desks: Any) -> None:
    desk = desks()
    began_ns = time.monotonic_ns()
    desk.connect()
    desk.turn_until(lambda: len(desk.memory.states) >= 20)
    times = [captured_ns for _, captured_ns in desk.memory.states]
    assert times == sorted(set(times)) and began_ns < times[0] < times[-1] < time.monotonic_ns()
    assert times[-1] - times[1] >= 18 * 0.5 * 0.01 * 1e9  # half of the pace: the bound is loose
    assert len(desk.memory.frames) <= 1.5 * len(desk.memory.states)


def test_a_command_is_sent_once_and_acknowledged(desks: Any) -> None:
    desk = desks()
    desk.connect()
    desk.begin()
    desk.memory.commands.put(command(1))
    desk.turn_until(lambda: desk.memory.acknowledged)
    assert desk.robot.named("send") == [("send", [0.5, -0.5], 3.0)]
    assert desk.memory.acknowledged == [1]


def test_commands_that_were_superseded_are_counted_and_told(desks: Any) -> None:
    desk = desks()
    desk.connect()
    desk.begin(session=1)
    for sequence, result in ((1, CommandResult.COMMAND), (4, CommandResult.TOO_OLD)):
        desk.memory.commands.put(command(sequence, result=result))
    desk.memory.commands.put(command(6))
    desk.turn_until(lambda: desk.memory.acknowledged == [1, 6] and desk.events("command_too_old"))
    assert desk.ask("counts", session=1)["result"] == {"accepted": 2, "superseded": 3}
    told = desk.events("command_superseded")[0]
    assert told["text"].removesuffix(" before the driver took it") in (
        "command 3: superseded by command 4",
        "command 5: superseded by command 6",
    )
    assert desk.ask("counts", session=2)["result"] == {"accepted": 0, "superseded": 0}


def test_a_driver_that_wants_the_stamps_gets_them(desks: Any) -> None:
    arm = Arm()
    found: list[Any] = []
    arm.__dict__["send_stamped"] = lambda values, stamp: found.append(stamp)
    desk = desks(arm)
    desk.connect()
    desk.begin()
    desk.memory.commands.put(command(7))
    desk.turn_until(lambda: desk.memory.acknowledged)
    assert found[0] == CommandStamp(
        sequence=7, session=1, tick_ns=3_000_000_000, observed_ns=1, sent_ns=2, flags=0
    )
    assert desk.robot.named("send") == []


def test_a_command_of_another_session_never_reaches_the_driver(desks: Any) -> None:
    desk = desks()
    desk.connect()
    desk.memory.commands.put(command(1))
    desk.begin(session=2)
    desk.memory.commands.put(command(2))
    desk.memory.commands.put(command(3, session=2))
    desk.turn_until(lambda: desk.memory.acknowledged)
    assert desk.memory.acknowledged == [3] and len(desk.robot.named("send")) == 1


def test_a_session_that_the_memory_refuses_is_an_error_and_not_the_end(desks: Any) -> None:
    desk = desks()
    desk.connect()

    def refuse(session: int) -> None:
        raise DriverMemoryError(
            f"session: expected a number above every earlier one, got {session}"
        )

    desk.memory.begin = refuse
    answer = desk.ask("begin", session=1, category=2)
    assert answer["error"] == "begin: session: expected a number above every earlier one, got 1"
    assert not desk.robot.named("stop") and not desk.robot.named("close")


@pytest.mark.parametrize(
    ("result", "event", "text"),
    [
        (CommandResult.TOO_OLD, "command_too_old", "dropped: older than three periods"),
        (CommandResult.STEP, "command_step", "elbow: expected a step of at most 0.12, got 0.5"),
        (CommandResult.NOT_FINITE, "command_not_finite", "elbow: expected a finite number"),
    ],
)
def test_a_refused_command_is_reported_and_not_sent(
    desks: Any, result: int, event: str, text: str
) -> None:
    desk = desks()
    desk.connect()
    desk.begin()
    desk.memory.commands.put(command(5, result=result))
    desk.turn_until(lambda: desk.events(event))
    assert text in desk.events(event)[0]["text"]
    assert desk.robot.named("send") == [] and desk.memory.acknowledged == []


@pytest.mark.parametrize(
    ("holds", "asked", "done"), [(False, 0, 2), (False, 1, 2), (True, 0, 0), (True, 1, 1)]
)
def test_a_stop_keeps_the_power_of_a_robot_that_would_fall(
    desks: Any, holds: bool, asked: int, done: int
) -> None:
    desk = desks(Arm(holds_without_power=holds))
    desk.connect()
    desk.begin()
    desk.memory.found = Watch(WatchResult.STOP, asked)
    desk.turn_until(lambda: desk.memory.phases[-1] == DriverPhase.STOPPED)
    assert desk.robot.named("stop") == [("stop", done)]


def test_after_a_stop_no_command_of_that_session_is_sent(desks: Any) -> None:
    desk = desks()
    desk.connect()
    desk.begin()
    desk.memory.found = Watch(WatchResult.SILENT, 2)
    desk.turn_until(lambda: desk.memory.phases[-1] == DriverPhase.STOPPED)
    assert desk.memory.session == 0
    desk.memory.commands.put(command(9))
    desk.turn_until(desk.memory.commands.empty)
    desk.begin(session=2)
    desk.memory.commands.put(command(1, session=2))
    desk.turn_until(lambda: desk.memory.acknowledged)
    assert desk.robot.calls[0] == ("stop", 2) and len(desk.robot.named("send")) == 1
    assert "silent for more than 3 periods" in desk.events("stopped")[0]["text"]
    assert desk.memory.phases[-1] == DriverPhase.READY


@pytest.mark.parametrize("hanging", ["send", "read_state", "read_frames"])
def test_the_robot_is_stopped_while_another_call_hangs(desks: Any, hanging: str) -> None:
    desk, released, hangs = desks(), threading.Event(), threading.Event()
    desk.connect()
    desk.begin()

    def hang() -> None:
        hangs.set()
        released.wait()

    desk.robot.faults[hanging] = hang
    desk.memory.commands.put(command(1))
    desk.turn_until(hangs.is_set)
    desk.memory.found = Watch(WatchResult.SILENT, 2)
    desk.turn_until(lambda: desk.memory.phases[-1] == DriverPhase.STOPPED)
    assert desk.robot.named("stop") == [("stop", 2)]
    beats = desk.memory.beats
    desk.turn_until(lambda: desk.memory.beats > beats)
    released.set()


def test_a_stop_that_hangs_is_a_failure(desks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "STOP_TIMEOUT_S", 0.1)
    desk, released = desks(), threading.Event()
    desk.robot.faults["stop"] = released.wait
    desk.connect()
    desk.begin()
    desk.memory.found = Watch(WatchResult.STOP, 2)
    desk.turn_until(desk.failed)
    assert desk.failed() == ["stop(): expected an end within 0.1 s, got none"]
    assert desk.memory.phases[-1] == DriverPhase.FAILED
    released.set()


def failing(times: int, error: str = "bus busy") -> Callable[[], None]:
    left = [times]

    def fail() -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(error)

    return fail


@pytest.mark.parametrize("call", ["read_state", "read_frames"])
def test_a_reading_that_fails_is_tried_again(desks: Any, call: str) -> None:
    desk = desks()
    desk.robot.faults[call] = failing(2)
    desk.connect()
    assert desk.failed() == []
    desk.turn_until(lambda: desk.events(f"{call}_failed"))
    assert desk.events(f"{call}_failed")[0]["text"] == f"{call}(): OSError: bus busy"


@pytest.mark.parametrize("call", ["read_state", "read_frames"])
def test_a_reading_that_keeps_failing_fails_the_driver_and_commands_still_pass(
    desks: Any, call: str
) -> None:
    """The control loop brings the arm to rest with them."""
    desk = desks()
    desk.connect()
    desk.begin()
    desk.robot.faults[call] = failing(99)
    desk.turn_until(desk.failed)
    assert desk.failed() == [f"{call}() failed 3 times in a row: OSError: bus busy"]
    assert desk.memory.phases[-1] == DriverPhase.FAILED
    desk.memory.commands.put(command(1))
    desk.turn_until(lambda: desk.memory.acknowledged)
    assert "failed 3 times" in desk.ask("begin", session=2, category=2)["error"]


def test_a_command_that_keeps_failing_stops_the_robot(desks: Any) -> None:
    desk = desks()
    desk.connect()
    desk.begin()
    desk.robot.faults["send"] = failing(3)
    for sequence in (1, 2, 3):
        desk.memory.commands.put(command(sequence))
    desk.turn_until(lambda: desk.robot.named("stop"))
    assert desk.failed() == ["send() failed 3 times in a row: OSError: bus busy"]
    assert desk.memory.acknowledged == []


def test_commands_that_fail_now_and_then_are_not_a_failure(desks: Any) -> None:
    desk = desks()
    desk.connect()
    desk.begin()
    turns = iter(range(99))
    desk.robot.faults["send"] = lambda: failing(next(turns) % 3)()
    for sequence in range(1, 10):
        desk.memory.commands.put(command(sequence))
    desk.turn_until(lambda: desk.memory.commands.empty() and 7 in desk.memory.acknowledged)
    assert desk.memory.acknowledged == [1, 4, 7] and desk.failed() == []
    assert len(desk.events("send_failed")) == 1  # told at once, then counted


def test_a_state_that_is_not_finite_is_reported_and_not_published(desks: Any) -> None:
    desk = desks()
    desk.connect()
    desk.robot.faults["read_state"] = lambda: (np.array([0.0, np.nan]), time.monotonic())
    desk.turn_until(lambda: desk.events("state_not_finite"))
    assert "elbow: expected a finite number" in desk.events("state_not_finite")[0]["text"]
    assert all(np.isfinite(state).all() for state, _ in desk.memory.states)
    assert desk.failed() == []


def test_a_state_of_another_length_fails_the_driver(desks: Any) -> None:
    desk = desks()
    desk.connect()
    desk.robot.faults["read_state"] = lambda: (np.zeros(3, np.float32), time.monotonic())
    desk.turn_until(desk.failed)
    assert "expected float32 or float64 (2,), got float32 (3,)" in desk.failed()[0]


def test_a_state_whose_time_stands_still_is_not_published_again(desks: Any) -> None:
    desk = desks()
    desk.connect()
    stamp_s = time.monotonic()
    desk.robot.faults["read_state"] = lambda: (np.zeros(2, np.float32), stamp_s)
    reader = desk.host._state_reader
    before = reader.num_read
    desk.turn_until(lambda: reader.num_read > before + 4)
    assert sum(captured_ns == round(stamp_s * 1e9) for _, captured_ns in desk.memory.states) <= 1


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.zeros((5, 6, 3), np.uint8), "top: expected 4 x 6 pixels as at connect, got 5 x 6"),
        (np.zeros((0, 0, 3), np.uint8), "top: expected uint8 (height, width, 3), got uint8 (0, 0"),
        (np.zeros((4, 6, 3), np.float32), "top: expected uint8 (height, width, 3), got float32"),
    ],
)
def test_a_camera_that_changes_is_reported_and_the_other_goes_on(
    desks: Any, image: Any, expected: str
) -> None:
    desk = desks()
    desk.connect(("top", "wrist"))
    desk.robot.faults["read_frames"] = lambda: {"top": (image, time.monotonic())}
    changed = len(desk.memory.frames) + 2
    desk.turn_until(lambda: len(desk.memory.frames) > changed + 4)
    told = [m["text"] for m in desk.messages if m.get("name", "").endswith(" top")]
    assert expected in told[0]
    assert {camera for camera, _, _ in desk.memory.frames[changed:]} == {1}
    assert desk.failed() == []


def test_connect_says_which_camera_gives_no_image(desks: Any) -> None:
    arm = Arm()
    arm.connect_timeout_s = 0.5
    arm.faults["read_frames"] = lambda: {"wrist": (None, 0.0)}
    answer = desks(arm).ask("connect", cameras=["top", "wrist"])
    assert answer["error"] == (
        "read_frames(): expected a first image within connect_timeout_s = 0.5 s, got none of wrist "
        "(wrist: expected uint8 (height, width, 3), got NoneType)"
    )


@pytest.mark.parametrize("stamp", [1.7e9, None], ids=["since 1970", "none"])
def test_connect_says_that_the_stamps_of_a_camera_cannot_be_used(desks: Any, stamp: Any) -> None:
    arm = Arm()
    arm.connect_timeout_s = 0.5
    arm.faults["read_frames"] = lambda: {"wrist": (np.zeros((4, 6, 3), np.uint8), stamp)}
    error = desks(arm).ask("connect", cameras=["top", "wrist"])["error"]
    assert "got none of wrist (wrist: capture time: expected" in error


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("call", ["read_state", "read_frames", "send"])
def test_whatever_a_driver_raises_is_tried_again_and_then_a_failure(
    desks: Any, call: str, kind: type[BaseException]
) -> None:
    """Python ends a thread in silence when SystemExit leaves it."""

    def leave() -> None:
        raise kind

    desk = desks()
    desk.connect()
    desk.begin()
    desk.robot.faults[call] = leave
    for sequence in (1, 2, 3):
        desk.memory.commands.put(command(sequence))
    desk.turn_until(desk.failed)
    assert desk.failed() == [f"{call}() failed 3 times in a row: {kind.__name__}"]


def test_connect_says_why_no_state_can_be_used(desks: Any) -> None:
    arm = Arm()
    arm.connect_timeout_s = 0.5
    arm.faults["read_state"] = lambda: (np.array([0.0, np.nan]), time.monotonic())
    assert desks(arm).ask("connect", cameras=["top"])["error"] == (
        "read_state(): expected a first state within connect_timeout_s = 0.5 s, got none "
        "(read_state(): elbow: expected a finite number, got nan)"
    )


def test_connect_that_raises_or_hangs_is_an_error_of_one_line(desks: Any) -> None:
    arm = Arm()
    arm.faults["connect"] = failing(1, "no\ndevice")
    assert desks(arm).ask("connect", cameras=[])["error"] == "connect(): OSError: no device"
    arm.connect_timeout_s, released = 0.1, threading.Event()
    arm.faults["connect"] = released.wait
    answer = desks(arm).ask("connect", cameras=[])
    assert answer["error"] == "connect(): expected an end within 0.1 s, got none"
    released.set()


def test_close_works_while_connect_hangs(desks: Any) -> None:
    desk, released = desks(), threading.Event()
    desk.robot.faults["connect"] = released.wait
    desk.policy.send({"kind": "connect", "id": 77, "cameras": []})
    desk.host.turn()
    assert desk.ask("close")["result"] == {"fault": ""}
    assert desk.robot.calls == [("close",)] and desk.host._is_over
    released.set()


def test_the_end_of_the_policy_stops_and_closes_the_robot(desks: Any) -> None:
    desk = desks()
    desk.connect()
    desk.begin()
    desk.policy.close()
    desk.turn_until(lambda: desk.host._is_over)
    assert desk.robot.calls == [("stop", 2), ("close",)]


def test_a_session_that_was_ended_is_not_stopped_again(desks: Any) -> None:
    desk = desks()
    desk.connect()
    desk.begin()
    assert "result" in desk.ask("end")
    assert "result" in desk.ask("close")
    assert desk.robot.calls == [("close",)]


def test_close_that_hangs_ends_anyway(desks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "CLOSE_TIMEOUT_S", 0.1)
    desk, released = desks(), threading.Event()
    desk.robot.faults["close"] = released.wait
    assert desk.ask("close")["result"] == {
        "fault": "close(): expected an end within 0.1 s, got none"
    }
    released.set()


def test_sigterm_is_ignored_while_a_session_runs_and_closes_otherwise(desks: Any) -> None:
    desk = desks()
    desk.connect()
    desk.begin()
    desk.signals.terminations.append(15)
    desk.turn_until(lambda: desk.events("sigterm_ignored"))
    assert desk.robot.calls == []
    desk.ask("end")
    desk.signals.terminations.append(15)
    desk.turn_until(lambda: desk.host._is_over)
    assert desk.robot.calls == [("close",)]


def test_the_host_reports_that_it_did_not_run(desks: Any) -> None:
    desk = desks()
    desk.connect()
    desk.host._turned_s -= 1.5
    desk.turn_until(lambda: desk.events("host_away"))
    assert "did not run for 1.5" in desk.events("host_away")[0]["text"]


def test_a_message_that_nobody_understands_changes_nothing(desks: Any) -> None:
    desk = desks()
    assert desk.ask("dance")["error"].startswith("dance: expected one of connect, map, begin")
    assert desk.ask("connect")["error"] == "connect: expected 'cameras'"
    desk.policy._connection.send(b"rubbish")
    desk.turn_until(lambda: desk.events("message_refused"))
    desk.connect()


def test_a_mistake_of_the_host_itself_stops_and_closes_the_robot(desks: Any) -> None:
    desk = desks()
    desk.connect()
    desk.begin()
    desk.memory.beat = failing(1, "a mistake")
    with pytest.raises(OSError, match="a mistake"):
        desk.host.run()
    assert desk.robot.calls == [("stop", 2), ("close",)]


class Slider(Arm):
    """An arm with a speed slider."""

    share: Any = 0.25

    def speed_scaling(self) -> Any:
        return self.share


def test_a_state_carries_the_speed_scaling_that_was_read_with_it(desks: Any) -> None:
    desk = desks(Slider())
    desk.connect()
    assert desk.memory.scalings[0] == 0.25
    desk.robot.share = 0
    desk.turn_until(lambda: desk.memory.scalings[-1] == 0.0)


@pytest.mark.parametrize("share", [1.01, -0.1, float("nan"), 50])
def test_a_speed_scaling_that_is_no_share_is_reported_with_its_state(
    desks: Any, share: float
) -> None:
    desk = desks(Slider())
    desk.connect()
    desk.robot.share = share
    desk.turn_until(lambda: desk.events("speed_scaling"))
    num_states, num_read = len(desk.memory.states), desk.host._state_reader.num_read
    desk.turn_until(lambda: desk.host._state_reader.num_read > num_read + 1)
    assert len(desk.memory.states) == num_states
    assert "expected a share from 0 to 1" in desk.events("speed_scaling")[0]["text"]


def test_a_speed_scaling_of_another_type_fails_the_driver(desks: Any) -> None:
    desk = desks(Slider())
    desk.connect()
    desk.robot.share = "full"
    desk.turn_until(desk.failed)
    assert "speed_scaling(): expected a number, got str" in desk.failed()[0]


def test_the_host_watches_at_the_period_of_the_commands(desks: Any) -> None:
    desk = desks()
    desk.memory.layout = desk.memory.layout._replace(period_s=0.005)
    desk.connect()
    assert desk.host._period_s == 0.005
    assert desk.host._state_reader._interval_s == pytest.approx(0.01)


def test_home_is_called_without_a_session_and_waits_for_new_readings(desks: Any) -> None:
    arm = Arm()
    desk = desks(arm)
    desk.connect()
    assert desk.ask("home")["error"] == "home: the robot has no home()"
    arm.__dict__["home"] = lambda: arm.calls.append(("home",))
    before = len(desk.memory.states)
    assert desk.ask("home")["result"] == {}
    assert arm.calls == [("home",)] and len(desk.memory.states) >= before + 2


def test_a_motion_without_commands_is_stopped_before_the_driver_is_closed(desks: Any) -> None:
    desk = desks()
    desk.connect()
    may_end = threading.Event()
    desk.robot.home = may_end.wait
    desk.policy.send({"kind": "home", "id": 90})
    desk.turn_until(lambda: any(thread.name == "home" for thread in threading.enumerate()))
    desk.policy.send({"kind": "close", "id": 91})
    desk.turn_until(lambda: desk.robot.named("close"))
    may_end.set()
    assert [call[0] for call in desk.robot.calls if call[0] in ("stop", "close")] == [
        "stop",
        "close",
    ]


def test_a_simulated_robot_is_reset_and_shows_its_progress(desks: Any) -> None:
    desk = desks(Simulated())
    desk.connect()
    assert desk.ask("reset", seed=5)["result"] == {"stages": ["counted", "counting"]}
    assert desk.robot.seeds == [0, 5]
    desk.begin()
    desk.memory.commands.put(command(1))
    desk.turn_until(lambda: desk.memory.acknowledged == [1])
    assert desk.memory.progress == 0b10
    desk.memory.commands.put(command(2))
    desk.turn_until(lambda: desk.memory.acknowledged == [1, 2])
    assert desk.memory.progress == 0b11
    desk.turn_until(lambda: desk.memory.states[-1][0][0] == np.float32(0.2))
