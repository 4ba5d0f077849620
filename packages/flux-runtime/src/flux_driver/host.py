"""The driver host: keeps a driver and the policy's process connected, and stops the robot when the
policy stops, dies or falls silent.

The main thread never calls the driver, so no call that hangs can keep it from its watch. It looks
four times per period of the commands at the policy's signs of life and at the messages.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
import traceback
from collections import deque
from typing import Any, Callable, Dict, Generator

from .calls import BoundedCall
from .commands import CommandSender, SessionCounts
from .events import Events
from .gate import Gate
from .memory import DriverMemory, DriverMemoryError, DriverPhase, WatchResult
from .messages import Channel, Message
from .parent import Parent, Signals
from .recording.extras import FIRST_S, ExtrasReader
from .recording.frame_sender import FrameSender
from .robot import DriverError, described, is_simulated, load_robot, one_line
from .stepped import SteppedRobot, progress_bits
from .threads import DriverThread, FramesReader, StateReader

POLL_S = 0.01
STOP_TIMEOUT_S = 1.0
HOME_TIMEOUT_S = 60.0
CLOSE_TIMEOUT_S = 5.0
MAX_SILENT_PERIODS = 3
MAX_UNREAD = 1000
KEEP_POWER = 2

Operation = Generator[None, None, Dict[str, Any]]


class Host:
    """One driver, from `connect` to `close`.

    Args:
        robot: a robot that `load_robot` has returned.
        facts: what `described` says of it.
        channel: the socket to the policy's process.
        parent: the policy's process.
        map_memory: maps the shared memory behind a descriptor.
        max_retries: how often a call that raises is tried again.
    """

    def __init__(
        self,
        *,
        robot: Any,
        facts: dict[str, Any],
        channel: Channel,
        parent: Parent,
        signals: Signals,
        map_memory: Callable[[int], Any],
        max_retries: int,
    ) -> None:
        spec = facts["spec"]
        self._robot = SteppedRobot(robot) if is_simulated(robot) else robot
        self._control_period_s = self._period_s = 1.0 / float(spec["control_hz"])
        self._joint_names = tuple(spec["joint_names"])
        self._state_names = tuple(spec.get("state_names") or spec["joint_names"])
        self._may_lose_power = bool(spec.get("holds_without_power", False))
        self._connect_timeout_s = facts["connect_timeout_s"]
        self._channel = channel
        self._parent = parent
        self._signals = signals
        self._map_memory = map_memory
        self._max_retries = max_retries
        self._events = Events()
        self._gate = Gate()
        self._outbox: deque[Message] = deque()
        self._memory: Any = None
        self._state_reader: StateReader | None = None
        self._frames_reader: FramesReader | None = None
        self._threads: list[DriverThread] = []
        self._frame_sender: FrameSender | None = None
        self._extras_reader: ExtrasReader | None = None
        self._sender: CommandSender | None = None
        self._operation: Operation | None = None
        self._operation_id: int | None = None
        self._motion: BoundedCall | None = None
        self._stop_call: BoundedCall | None = None
        self._stop_reason = ""
        self._category = KEEP_POWER
        self._has_stopped = False
        self._is_closing = False
        self._is_over = False
        self._failure = ""
        self._turned_s = time.monotonic()
        self._messages = select.poll()  # select() knows no descriptor above 1023
        self._messages.register(channel.fileno(), select.POLLIN)

    def run(self) -> None:
        """Serves until the driver is closed."""
        try:
            while not self._is_over:
                self.turn()
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        """Stops and closes the robot although this host has failed by a mistake of its own."""
        self._stop(self._category, "the driver host has failed")
        if self._stop_call is not None:
            self._stop_call.wait(STOP_TIMEOUT_S)
        BoundedCall("close", self._robot.close, CLOSE_TIMEOUT_S).wait(CLOSE_TIMEOUT_S)

    def turn(self) -> None:
        """Waits for a quarter of a period at most, then looks at everything once."""
        if not self._is_closing:
            timeout_s = min(POLL_S, self._period_s / 4)
            self._messages.poll(timeout_s * 1e3)
        else:
            time.sleep(POLL_S / 10)
        self._notice_absence()
        self._look_at_policy_process()
        self._look_at_memory()
        self._look_at_threads()
        self._finish_stop()
        self._advance_operation()
        self._flush()  # first the reason, then the phase
        self._show_phase()

    def _notice_absence(self) -> None:
        """Reports that this process did not run: it was stopped, starved, or the driver held the
        interpreter's lock."""
        now_s = time.monotonic()
        away_s, self._turned_s = now_s - self._turned_s, now_s
        if self._memory is not None and away_s > MAX_SILENT_PERIODS * self._period_s:
            self._events.report("host_away", f"the driver host did not run for {away_s:.3f} s")

    def _look_at_policy_process(self) -> None:
        if self._is_closing:
            return
        while True:
            try:
                message, descriptor = self._channel.receive()
            except BlockingIOError:
                break
            except EOFError:
                self._abandon("the policy's process has closed its socket")
                return
            except ValueError as error:
                self._events.report("message_refused", one_line(error))
                continue
            self._take(message, descriptor)
        if not self._parent.is_alive():
            self._abandon("the policy's process has ended")
        elif self._signals.terminations:
            self._signals.terminations.clear()
            if self._gate.session:
                self._events.report("sigterm_ignored", "SIGTERM is ignored while a session runs")
            else:
                self._abandon("SIGTERM")

    def _abandon(self, reason: str) -> None:
        """Stops the robot if a session is open, closes the driver, and ends."""
        if not self._is_closing:
            self._stop(self._category, reason)
            self._begin_operation(None, self._close())

    def _take(self, message: Message, descriptor: int | None) -> None:
        kind, number = message["kind"], message.get("id")
        operations: dict[str, Callable[[], Operation]] = {
            "connect": lambda: self._connect(message["cameras"]),
            "map": lambda: self._map(descriptor),
            "begin": lambda: self._begin(message["session"], message["category"]),
            "end": self._end,
            "counts": lambda: self._count(message["session"]),
            "reset": lambda: self._reset(message["seed"]),
            "home": self._home,
            "record": lambda: self._record(descriptor),
            "close": self._close,
        }
        if kind not in operations:
            self._answer(number, error=f"{kind}: expected one of {', '.join(operations)}")
        elif self._operation is not None and kind != "close":
            self._answer(number, error=f"{kind}: another call is not over yet")
        else:
            try:
                operation = operations[kind]()
            except KeyError as error:
                self._answer(number, error=f"{kind}: expected {error}")
            else:
                self._begin_operation(number, operation)

    def _begin_operation(self, number: int | None, operation: Operation) -> None:
        if self._operation is not None:
            self._answer(self._operation_id, error="cancelled")
        self._operation, self._operation_id = operation, number

    def _advance_operation(self) -> None:
        if self._operation is None:
            return
        number = self._operation_id
        try:
            next(self._operation)
        except StopIteration as end:
            self._operation = None
            self._answer(number, result=end.value)
        except DriverError as error:
            self._operation = None
            self._answer(number, error=str(error))

    def _answer(self, number: int | None, **content: Any) -> None:
        if number is not None:
            self._outbox.append({"kind": "answer", "id": number, **content})

    # The operations: each yields while it waits.

    def _connect(self, cameras: list[str]) -> Operation:
        """Connects the robot and takes a first state and a first image of each camera."""
        if self._threads:
            raise DriverError("connect: the robot is connected already")
        deadline_s = time.monotonic() + self._connect_timeout_s
        yield from self._call("connect", self._robot.connect, self._connect_timeout_s)
        self._signals.install()
        settings = (self._control_period_s, self._events, self._max_retries)
        self._state_reader = StateReader(self._robot, self._state_names, *settings)
        readers: list[Any] = [self._state_reader]
        if cameras:
            self._frames_reader = FramesReader(self._robot, cameras, *settings)
            readers.append(self._frames_reader)
        self._threads += readers
        for reader in readers:
            reader.start()
        while not all(reader.has_first.is_set() for reader in readers):
            for reader in readers:
                if reader.failure:
                    raise DriverError(reader.failure)
            if time.monotonic() > deadline_s:
                raise DriverError(self._what_is_missing())
            yield
        return {"cameras": self._frames_reader.sizes if self._frames_reader else {}}

    def _what_is_missing(self) -> str:
        within = f"within connect_timeout_s = {self._connect_timeout_s:g} s"
        state, frames = self._state_reader, self._frames_reader
        if state is not None and not state.has_first.is_set():
            text, fault = f"read_state(): expected a first state {within}, got none", state.fault
        else:
            missing = ", ".join(frames.missing()) if frames else ""
            text = f"read_frames(): expected a first image {within}, got none of {missing}"
            fault = frames.fault if frames else ""
        return f"{text} ({fault})" if fault else text

    def _map(self, descriptor: int | None) -> Operation:
        if descriptor is None or self._state_reader is None:
            raise DriverError("map: expected a descriptor, after connect")
        try:
            self._memory = self._map_memory(descriptor)
        except DriverMemoryError as error:
            raise DriverError(str(error)) from error
        finally:
            os.close(descriptor)
        for reader in self._readers():
            reader.publish_to(self._memory)
        self._period_s = self._memory.layout.period_s  # there may be more commands than steps
        stepped = self._robot if isinstance(self._robot, SteppedRobot) else None
        if stepped is not None:
            stepped.expect_commands(self._period_s)
        sender = CommandSender(
            self._robot,
            self._joint_names,
            self._memory,
            self._gate,
            self._events,
            self._max_retries,
            progress=None if stepped is None else lambda: progress_bits(stepped.stages),
        )
        self._threads.append(sender)
        self._sender = sender
        sender.start()
        self._memory.beat()
        self._show_phase()
        return {}
        yield

    def _record(self, descriptor: int | None) -> Operation:
        """Hands what the sensors deliver to a recording process, too, from now on."""
        if descriptor is None or self._memory is None or self._frame_sender is not None:
            raise DriverError("record: expected a descriptor, once, after map")
        sender = self._frame_sender = FrameSender(socket.socket(fileno=descriptor))
        if self._frames_reader is not None:
            self._frames_reader.record_to(sender)
        reader = self._extras_reader = ExtrasReader(
            self._robot, self._control_period_s, self._events, self._max_retries, sender
        )
        if reader.kinds:
            reader.start()
        deadline_s = time.monotonic() + FIRST_S
        while missing := sender.missing() + reader.missing():
            if time.monotonic() > deadline_s or reader.failure:
                fault = reader.failure or reader.fault
                raise DriverError(
                    f"record: expected {', '.join(missing)} within {FIRST_S:g} s, got none"
                    + (f" ({fault})" if fault else "")
                )
            yield
        return {
            "cameras": self._frames_reader.sizes if self._frames_reader else {},
            "extras": {n: {**e, "shape": reader.shapes[n]} for n, e in reader.kinds.items()},
        }

    def _begin(self, session: int, category: int) -> Operation:
        """Accepts the commands of a session."""
        if self._memory is None or self._failure:
            raise DriverError(f"begin: {self._failure or 'expected a connected driver'}")
        if self._stop_call is not None:
            raise DriverError("begin: expected the stop of the session before to be over")
        if self._is_moving():
            raise DriverError("begin: expected the robot's own motion to be over")
        try:
            self._memory.begin(session)
        except DriverMemoryError as error:
            raise DriverError(f"begin: {error}") from error
        self._category = category
        self._has_stopped = False
        self._gate.open(session)
        self._show_phase()
        return {}
        yield

    def _end(self) -> Operation:
        """Accepts no more commands of the session, whose end the robot has reached at rest."""
        self._end_session()
        return {}
        yield

    def _count(self, session: int) -> Operation:
        """Tells how many commands of a session the driver has accepted, and how many it missed."""
        counts = self._sender.counts if self._sender is not None else SessionCounts()
        if counts.session != session:
            counts = SessionCounts(session)
        return {"accepted": counts.accepted, "superseded": counts.superseded}
        yield

    def _end_session(self) -> bool:
        """Returns whether a session was open."""
        if not self._gate.close():
            return False
        self._memory.end()
        return True

    def _reset(self, seed: int) -> Operation:
        stepped = self._robot
        if not isinstance(stepped, SteppedRobot):
            raise DriverError("reset: expected a simulated robot")
        yield from self._move("reset", lambda: stepped.reset(seed))
        if self._memory is not None:
            self._memory.set_progress(progress_bits(stepped.stages))
        return {"stages": list(stepped.stages)}

    def _home(self) -> Operation:
        home = getattr(self._robot, "home", None)
        if not callable(home):
            raise DriverError("home: the robot has no home()")
        yield from self._move("home", home)
        return {}

    def _move(self, name: str, call: Callable[[], Any]) -> Generator[None, None, None]:
        """Moves the robot without commands, and waits for readings from afterwards."""
        self._end_session()
        timeout_s = float(getattr(self._robot, f"{name}_timeout_s", HOME_TIMEOUT_S))
        self._motion = BoundedCall(name, call, timeout_s)
        yield from self._wait_for(self._motion)
        wanted = {reader: reader.num_read + 2 for reader in self._readers()}
        deadline_s = time.monotonic() + timeout_s
        while any(reader.num_read < count for reader, count in wanted.items()):
            if time.monotonic() > deadline_s:
                raise DriverError(f"{name}(): expected new readings afterwards, got none")
            yield

    def _close(self) -> Operation:
        """Closes the driver, and ends this process afterwards."""
        self._is_closing = True
        self._stop(self._category, "the driver is closed")
        while self._stop_call is not None:
            yield
        for thread in (*self._threads, *filter(None, [self._extras_reader])):
            thread.end()
        call = BoundedCall("close", self._robot.close, CLOSE_TIMEOUT_S)
        while not call.is_over:
            yield
        self._is_over = True
        return {"fault": call.fault}

    def _call(
        self, name: str, call: Callable[[], Any], timeout_s: float
    ) -> Generator[None, None, None]:
        yield from self._wait_for(BoundedCall(name, call, timeout_s))

    def _wait_for(self, call: BoundedCall) -> Generator[None, None, None]:
        while not call.is_over:
            yield
        if call.fault:
            raise DriverError(call.fault)

    def _is_moving(self) -> bool:
        """Whether a motion without commands still runs, even if nobody waits for it any more."""
        return self._motion is not None and not self._motion.has_returned

    def _readers(self) -> list[Any]:
        return [reader for reader in (self._state_reader, self._frames_reader) if reader]

    # The watch.

    def _look_at_memory(self) -> None:
        if self._memory is None:
            return
        self._memory.beat()
        result, category = self._memory.watch()
        if result == WatchResult.STOP:
            self._stop(category, "the policy's process has stopped the session")
        elif result == WatchResult.SILENT:
            self._stop(
                self._category,
                f"the policy's process was silent for more than {MAX_SILENT_PERIODS} periods",
            )
        elif result == WatchResult.CLOSED:
            self._stop(self._category, "the policy's process has ended the connection")

    def _look_at_threads(self) -> None:
        for thread in self._threads:
            if thread.failure and not self._failure:
                self._fail(thread.failure)
                if isinstance(thread, CommandSender):
                    self._stop(self._category, thread.failure)

    def _fail(self, reason: str) -> None:
        self._failure = reason
        self._outbox.append({"kind": "failed", "reason": reason})

    def _stop(self, category: int, reason: str) -> None:
        """Closes the open session and does the robot's own stop, once; also during a motion
        without commands."""
        if not self._end_session() and not self._is_moving():
            return
        allowed = category if self._may_lose_power else KEEP_POWER

        def stop() -> None:
            self._gate.wait_until_sent(self._control_period_s)
            self._robot.stop(allowed)

        self._stop_call = BoundedCall("stop", stop, STOP_TIMEOUT_S)
        self._stop_reason = f"stop({allowed}): {reason}"

    def _finish_stop(self) -> None:
        call = self._stop_call
        if call is None or not call.is_over:
            return
        self._stop_call = None
        self._has_stopped = True
        self._events.tell("stopped", self._stop_reason)
        if call.fault and self._failure:
            # The policy's process has its reason already, and may read no more events.
            print(f"the robot's own stop has failed: {call.fault}", file=sys.stderr)
        elif call.fault:
            self._fail(call.fault)

    def _show_phase(self) -> None:
        if self._memory is None:
            return
        phase = DriverPhase.READY
        if self._is_over:
            phase = DriverPhase.CLOSED
        elif self._failure:
            phase = DriverPhase.FAILED
        elif self._has_stopped:
            phase = DriverPhase.STOPPED
        self._memory.set_phase(phase)

    def _flush(self) -> None:
        self._outbox.extend(self._events.due())
        try:
            while self._outbox and self._channel.send(self._outbox[0]):
                self._outbox.popleft()
        except OSError:
            self._outbox.clear()  # nobody is left to read them
        while len(self._outbox) > MAX_UNREAD:
            self._outbox.popleft()


def serve(
    connection: Any,
    parent: int,
    target: str,
    arguments: dict[str, Any],
    library: str,
    max_retries: int,
) -> int:
    """Loads the driver `target`, made with `arguments`, and serves it; returns the exit code."""
    sys.setswitchinterval(0.001)
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None: closed by who started flux
        stream.reconfigure(line_buffering=True)  # pyright: ignore[reportAttributeAccessIssue]
    signals = Signals()
    channel = Channel(connection)
    try:
        robot = load_robot(target, arguments)
        facts = described(robot)
        host = Host(
            robot=robot,
            facts=facts,
            channel=channel,
            parent=Parent(parent),
            signals=signals,
            map_memory=lambda descriptor: DriverMemory(descriptor, library),
            max_retries=max_retries,
        )
        channel.send({"kind": "described", "robot": facts})
    except (DriverError, TypeError, ValueError, OSError) as error:
        channel.send(
            {
                "kind": "refused",
                "reason": str(error) if isinstance(error, DriverError) else one_line(error),
            }
        )
        return 1
    signals.install()
    code = 0
    try:
        host.run()
    except BaseException:  # noqa: BLE001 - nothing is left to be done but to say so
        code = 1
        traceback.print_exc()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    os._exit(code)  # a call of the driver may hang
