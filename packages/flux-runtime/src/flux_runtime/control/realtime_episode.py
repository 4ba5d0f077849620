"""One episode in real time: supervises the control thread and keeps what it records.

    inference thread --chunk--> control thread (C++) --command--> driver process
                                      |
                         ticks and events, drained here at least 20 times a second

An episode is one session of the control thread, and one more after each pause of the operator.

Nothing here is in the control thread's way: if this thread hangs, commands go on or stop as the
loop's own limits say, and its records wait in their rings.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, Protocol

import numpy as np

from flux_core.command_line import StoppedBySignal
from flux_core.errors import RobotError

from ..realtime import DriverCancelled
from .command_monitor import RETURNING, CommandMonitor
from .episode import EpisodeResult, how_it_ended
from .episode_log import EpisodeLog, Event, Outcome, ReplayLog
from .latency import Histogram, since
from .realtime_inference import PlannedMotion
from .realtime_rows import (
    HOLDING,
    PER_SESSION,
    RUNNING,
    HoldWatch,
    SessionTimes,
    total_stats,
)
from .realtime_session import RealtimeSession
from .success import STRICT_HOLD_TICKS, SuccessWatch
from .trace import CommandCounts, RealtimeTrace

logger = logging.getLogger(__name__)

DRAIN_EVERY_S = 0.04
STEP_PHASES = (RUNNING, HOLDING)
"""Running and holding: the steps of an episode, without the way back to the limits and braking."""
ENDING = ("stopping", "finishing")
OPERATOR = "operator"
"""What has stopped an episode that the operator has ended early."""
OF_THE_DRIVER = ("driver_stopped", "driver_failed", "driver_dead", "session_lost")
"""Stops whose reason only the driver's process knows."""
WITHOUT_CHUNKS = ("held_too_long", "retries_exhausted", "inference_deadline", "policy_too_slow")
"""Stops whose reason may be known to what provides the chunks."""
EXPLANATION_S = 0.3
"""How long to wait for that reason, which may arrive after the stop that it explains."""
MOTION_FACTOR, MOTION_S = 3.0, 10.0
"""A motion may take so many times as long as its rows last, and this time."""
DRIVER_STOP_S = 1.5
"""More than a driver may take for its stop; without its answer, an episode is not resumed."""
DEPLOYMENT_CHECK = "deployment_check"
"""Stopped the robot because of what its first motions show."""
POLICY_CHANGED = "policy_changed"
"""Stopped the robot because what provides its chunks is no longer what it was."""
END_TIMEOUT_S = 15.0
"""More than any braking takes; a control thread that still runs then cannot be trusted."""


class EpisodeOperator(Protocol):
    """The person at the robot, as far as an episode is concerned.

    Attributes:
        has_paused: whether the operator has stopped the running session in order to pause.
        ending: why the operator has ended the episode early, in words; None if that is not so.
        success: how the operator judges the episode; None if that is not known.
    """

    @property
    def has_paused(self) -> bool: ...
    @property
    def ending(self) -> str | None: ...
    @property
    def success(self) -> bool | None: ...

    def attend(self, session: RealtimeSession) -> None:
        """Tells that a session of the control thread begins, which the operator may stop at once
        from now on."""
        ...

    def look(self, steps: int) -> None:
        """Does what the operator has asked for; called about 25 times a second."""
        ...

    def leave(self) -> None:
        """Tells that the session has ended."""
        ...

    def waits_to_resume(self, session: RealtimeSession) -> bool:
        """Waits during a pause, and returns whether the episode goes on.

        Raises:
            StoppedBySignal: a signal has ended the run.
        """
        ...


def drive_realtime(
    session: RealtimeSession,
    seed: int,
    *,
    on_tick: Callable[[int], None] = lambda step: None,
    hold_ticks: int = STRICT_HOLD_TICKS,
    log: EpisodeLog | None = None,
    replay_log: ReplayLog | None = None,
    on_end: Callable[[EpisodeResult], None] = lambda result: None,
    operator: EpisodeOperator | None = None,
    begins_slowly: bool = False,
    motion: PlannedMotion | None = None,
) -> EpisodeResult:
    """Runs one episode from the measured state, until the robot is at rest again.

    Args:
        session: a connected robot that has passed the preflight.
        seed: of the noise, and of the start state of a simulated robot.
        on_tick: called after each look at the loop with the number of steps so far.
        hold_ticks: for how many ticks the end state must hold before the task is done.
        log: receives ticks, events and the times of inferences.
        replay_log: receives all that the control thread takes from outside.
        on_end: called with the result, however the episode ends.
        operator: may pause, end and judge it; None if nobody is there.
        begins_slowly: whether it begins as slowly as the settings of the session say.
        motion: is executed instead of what the policy wants.

    Raises:
        RobotError: a fault stopped the robot.
        StoppedBySignal: the operator stopped it.
    """
    episode = RealtimeEpisode(
        session,
        seed,
        hold_ticks=hold_ticks,
        log=log,
        replay_log=replay_log,
        operator=operator,
        begins_slowly=begins_slowly,
        motion=motion,
    )
    try:
        episode.start()
        episode.supervise(on_tick)
        while episode.resumes():
            episode.supervise(on_tick)
    except BaseException as error:  # The robot is stopped whatever has happened here.
        episode.stop(error)
        on_end(episode.result(error))
        raise
    result = episode.result(None)
    on_end(result)
    if result.outcome == "interrupted" and result.stopped_by != OPERATOR:
        raise StoppedBySignal(session.signals.signal)
    if result.outcome == "failed":
        episode.refuse(result)
    if result.ended_in_hold is not None:
        logger.warning(
            "%s: the episode with seed %d ended while the robot was held (%s). Look at its events",
            session.spec.name,
            seed,
            result.ended_in_hold,
        )
    return result


def drive_motion(
    session: RealtimeSession,
    motion: PlannedMotion,
    num_rows: int,
    *,
    operator: EpisodeOperator | None = None,
) -> EpisodeResult:
    """Moves the robot along `motion`, in a session of its own that nothing records, and returns how
    that ended. A stop of the operator ends it.

    Args:
        session: a connected robot that has passed the preflight.
        motion: begins at the measured state.
        num_rows: of the motion.
        operator: may stop it.

    Raises:
        RobotError: a fault stopped the robot.
        StoppedBySignal: a signal did.
    """
    steps = round(MOTION_FACTOR * num_rows / session.speed + MOTION_S * session.spec.control_hz)
    options = replace(session.options, max_steps=steps)
    return drive_realtime(replace(session, options=options), 0, operator=operator, motion=motion)


class RealtimeEpisode:
    """An episode from its start to its end; see `drive_realtime`."""

    def __init__(
        self,
        session: RealtimeSession,
        seed: int,
        *,
        hold_ticks: int,
        log: EpisodeLog | None,
        replay_log: ReplayLog | None,
        operator: EpisodeOperator | None = None,
        begins_slowly: bool = False,
        motion: PlannedMotion | None = None,
    ) -> None:
        self._session = session
        self._motion = motion
        self._first = session.first_motions() if begins_slowly and motion is None else None
        self._loop = session.loop
        self._driver = session.driver
        self._seed = seed
        self._operator = operator
        self._begins_slowly = begins_slowly
        self._number = session.next_number()
        self._commands_per_step = session.command_hz / session.spec.control_hz
        self._max_ticks = round(session.options.max_steps * self._commands_per_step)
        self._trace = RealtimeTrace(session.command_hz)
        self._logs: list[EpisodeLog] = [self._trace, *([log] if log else [])]
        self._replay_log = replay_log
        self._dropped_before: Mapping[str, int] = session.loop.stats()["dropped"]
        self._times = SessionTimes(session.spec, session.source.cameras, time.monotonic_ns())
        self._monitor = self._new_monitor()
        self._holds = HoldWatch()
        self._has_started = False
        self._is_told = False
        self._driver_stop = ""
        self._num_sent = 0
        self._reached: tuple[int, int] | None = (0, 0)
        self._num_used = 0
        self._before: Mapping[str, Histogram] = session.loop.stats()["histograms"]
        self._ended: list[_EndedSession] = []
        self._watch: SuccessWatch | None = None
        if (task := session.driver.simulation) is not None:
            self._watch = SuccessWatch(
                success_stage=task.success_stage,
                end_state=task.end_state,
                hold_ticks=round(hold_ticks * self._commands_per_step),
            )

    def start(self) -> None:
        """Starts the control thread from the measured state."""
        session, driver = self._session, self._driver
        session.raise_if_signalled()
        if driver.simulation is not None and self._motion is None:
            try:
                driver.reset(self._seed, cancelled=session.is_signalled)
            except DriverCancelled as error:
                raise StoppedBySignal(session.signals.signal) from error
        self._begin_session(self._max_ticks, is_slow=self._begins_slowly)

    def resumes(self) -> bool:
        """After a pause, waits for the operator; begins the next session if the episode goes on.

        Raises:
            StoppedBySignal: a signal has ended the run meanwhile.
        """
        operator = self._operator
        left = self._max_ticks - self._num_used
        is_resumable = self._motion is None and left > 0
        if operator is None or not is_resumable or not self._is_paused():
            return False
        if not operator.waits_to_resume(self._session):
            return False
        self._ended.append(self._as_ended())
        self._number = self._session.next_number()
        self._dropped_before = self._loop.stats()["dropped"]
        self._driver_stop = ""
        self._is_told = False
        self._num_sent, self._reached = 0, (0, 0)
        self._holds = HoldWatch()
        self._trace.begin_part()
        self._begin_session(left, is_slow=True)
        return True

    def _begin_session(self, max_ticks: int, *, is_slow: bool) -> None:
        session, driver = self._session, self._driver
        session.raise_if_signalled()
        is_return_confirmed = session.confirms_return()
        session.answerer.begin(
            self._seed,
            self._number,
            self._replay_log,
            prompt=session.prompt,
            motion=self._motion,
        )
        driver.begin(self._number, stop_category=session.settings.stop_category)
        self._monitor = self._new_monitor()
        if self._first is not None:
            self._first.begin()
        try:
            self._loop.start(
                self._number,
                confirmed_return=is_return_confirmed,
                max_ticks=max_ticks,
                is_slow=is_slow,
                # Whatever the mode, a motion goes on without a pause from one chunk to the next.
                mode=None if self._motion is None else "ensemble",
            )
        except ValueError as error:
            session.raise_if_signalled()  # which the loop may have seen first
            raise RobotError(f"{session.spec.name}: {error}") from error
        self._has_started = True
        if self._operator is not None:
            self._operator.attend(session)
        if self._replay_log is not None:
            self._replay_log.add_start(self._loop.session_start())

    def _is_paused(self) -> bool:
        """Whether the last session was stopped by the operator, and nothing else has happened."""
        status = self._loop.status()
        is_stopped = status["phase"] == "stopped" and status["fault"] == "operator_stop"
        return is_stopped and self._operator is not None and self._operator.has_paused

    def _as_ended(self) -> _EndedSession:
        return _EndedSession(
            stats=self._loop.stats(),
            commands=self._session_counts(),
            num_out_of_limit=self._monitor.num_out_of_limit,
        )

    def supervise(self, on_tick: Callable[[int], None]) -> None:
        """Drains what happens until the episode is over and the robot is at rest."""
        ending_since_s: float | None = None
        while not self._loop.wait_until_ended(DRAIN_EVERY_S):
            self._drain()
            on_tick(self._steps)
            if self._operator is not None:
                self._operator.look(self._steps)
            if self._motion is not None and self._motion.is_over:
                self._loop.finish()
            if self._watch is not None and self._watch.strict_success:
                self._loop.finish()
            if self._loop.status()["phase"] not in ENDING:
                continue
            ending_since_s = ending_since_s or time.monotonic()
            if time.monotonic() - ending_since_s > END_TIMEOUT_S:
                raise RobotError(
                    f"{self._session.spec.name}: expected the robot at rest within "
                    f"{END_TIMEOUT_S:g} s of the end of the episode, got a control thread that "
                    f"still brakes"
                )
        self._leave()
        self._look_back()
        if self._loop.status()["phase"] == "idle":
            self._driver.end()
        elif self._is_paused():
            self._wait_for_driver_stop()

    def stop(self, error: BaseException) -> None:
        """Stops the robot because this thread cannot go on, and waits until it is at rest."""
        if not self._has_started:
            return
        _, _, reason = how_it_ended(error)
        self._leave()
        self._loop.stop(self._session.settings.stop_category, reason or "")
        self._loop.wait_until_ended(END_TIMEOUT_S)
        self._logs = [self._trace]  # what could not be recorded may be the reason
        self._look_back()

    def result(self, error: BaseException | None) -> EpisodeResult:
        """Returns what has happened until now."""
        outcome, stopped_by, reason = self._ending(error)
        watch = self._watch
        is_done = watch is not None and watch.strict_success
        is_judged = watch is not None and (outcome == "finished" or watch.success)
        sessions = [*self._ended, self._as_ended()]
        stats = total_stats([entry.stats for entry in sessions])
        stats["ticks"] = self._num_used
        stats["histograms"] = {
            stage: histogram if stage in PER_SESSION else since(self._before.get(stage), histogram)
            for stage, histogram in stats["histograms"].items()
            if stage != "intervals"  # `timing` has them
        }
        by_operator = self._operator.success if self._operator is not None else None
        return EpisodeResult(
            seed=self._seed,
            steps=self._steps,
            success=watch.success if watch is not None and is_judged else by_operator,
            strict_success=watch.strict_success if watch is not None and is_judged else None,
            stages={} if watch is None else watch.stages,
            commands_out_of_limit=sum(entry.num_out_of_limit for entry in sessions),
            stats=stats,
            trace=self._trace.trace(),
            outcome=outcome,
            stopped_by=stopped_by,
            reason=reason,
            events=tuple(self._trace.events),
            timing=self._trace.timing(),
            commands=_total_counts([entry.commands for entry in sessions]),
            ended_in_hold=self._holds.fault() if outcome == "finished" and not is_done else None,
            task=self._session.prompt,
            pauses=len(self._ended),
        )

    @property
    def _steps(self) -> int:
        """The control steps so far, of which each may have several commands."""
        return int(self._num_used / self._commands_per_step + 1e-9)

    def refuse(self, result: EpisodeResult) -> NoReturn:
        """Raises the fault that ended the episode, in one line."""
        reason, fault = str(result.reason), str(result.stopped_by)
        why = reason if reason.startswith(f"{fault}: ") else f"{fault}: {reason}"
        raise RobotError(f"{self._session.spec.name}: stopped by {why}")

    def _new_monitor(self) -> CommandMonitor:
        spec = self._session.spec
        start = spec.hold(self._session.measured_state())
        source = self._session.source
        return CommandMonitor(spec, start, self._session.command_hz, source.binary_mask)

    def _drain(self) -> None:
        """Passes on what has happened since the last time."""
        ticks = self._loop.drain_ticks()
        ticks = ticks[ticks["session"] == self._number]
        if self._replay_log is not None:
            self._replay_log.add_ticks(ticks)
        ticks = ticks[ticks["sent_ns"] != 0]
        rows = self._times.rows(ticks)
        if len(rows):
            self._num_sent = int(rows["sequence"][-1])
            self._monitor.check_rows(rows["command"], rows["flags"])
            is_back = (rows["flags"] & RETURNING) == 0
            steps = rows[np.isin(rows["phase"], STEP_PHASES) & is_back]
            self._num_used += len(steps)
            self._holds.add_steps(steps)
            for log in self._logs:
                log.add_rows(rows)
        if self._watch is not None:
            for progress in ticks["progress"].tolist():
                if not self._watch.strict_success:  # it need not hold while the robot brakes
                    self._watch.update(self._driver.stages(progress))
        if self._first is not None:
            suspicion = self._first.add(rows, self._session.answerer.take_seen())
            if suspicion is not None:
                self._loop.stop(2, suspicion.line)
        if not self._is_told and (reason := self._session.source.stop_reason) is not None:
            self._is_told = True
            self._loop.stop(self._session.settings.stop_category, reason)
        self._pass_on(self._events())
        while self._session.answerer.measured:
            measured = self._session.answerer.measured.popleft()
            if measured.session == self._number:
                for log in self._logs:
                    log.add_inference(self._times.inference(measured))

    def _look_back(self) -> None:
        """Takes in the last of what has happened, from both processes."""
        self._drain()
        self._wait_for_explanation()
        self._note_dropped()
        self._reached = self._driver.command_counts(self._number)

    def _note_dropped(self) -> None:
        """Notes the records that did not fit in the control thread's rings."""
        if self._replay_log is None:
            return
        for what, count in self._loop.stats()["dropped"].items():
            self._replay_log.note_dropped(what, count - self._dropped_before[what])

    def _leave(self) -> None:
        if self._operator is not None:
            self._operator.leave()

    def _wait_for_driver_stop(self) -> None:
        """Waits until the driver has stopped the robot, which it must have before it goes on."""
        deadline_s = time.monotonic() + DRIVER_STOP_S
        while not self._explanation() and time.monotonic() < deadline_s:
            time.sleep(DRAIN_EVERY_S / 4)
            self._drain()

    def _session_counts(self) -> CommandCounts:
        """Returns how many commands of the session were sent, and reached the driver."""
        accepted, superseded = self._reached or (None, None)
        return CommandCounts(sent=self._num_sent, accepted=accepted, superseded=superseded)

    def _wait_for_explanation(self) -> None:
        """Waits a moment for why the driver's process has ended the session, if it has."""
        status = self._loop.status()
        if status["phase"] != "stopped" or status["fault"] not in OF_THE_DRIVER:
            return
        deadline_s = time.monotonic() + EXPLANATION_S
        while not self._explanation() and time.monotonic() < deadline_s:
            time.sleep(EXPLANATION_S / 30)
            self._drain()

    def _explanation(self) -> str:
        """Returns why the driver cannot go on or has stopped the robot; '' if it has not said."""
        return self._driver.failure or self._driver_stop

    def _events(self) -> list[Event]:
        recorded = [
            event for event in self._loop.drain_events() if event["session"] == self._number
        ]
        if self._replay_log is not None:
            self._replay_log.add_loop_events(recorded)
        of_loop = [self._times.event(event) for event in recorded]
        of_driver = [
            Event(
                time_s=self._times.seconds(event.time_ns),
                name=event.name,
                value=float(event.count),
                text=event.text,
            )
            for event in self._driver.events()
        ]
        for event in of_driver:
            if event.name == "stopped":
                self._driver_stop = event.text
        return sorted(of_loop + of_driver, key=lambda event: event.time_s)

    def _pass_on(self, events: list[Event]) -> None:
        for event in events:
            self._holds.add_event(event)
            for log in self._logs:
                log.add_event(event)

    def _ending(self, error: BaseException | None) -> tuple[Outcome, str | None, str | None]:
        if error is not None:
            return how_it_ended(error)
        status = self._loop.status()
        fault, reason = status["fault"], status["reason"]
        ending = self._operator.ending if self._operator is not None else None
        if self._first is not None and self._first.suspicion is not None:
            return "failed", DEPLOYMENT_CHECK, self._first.suspicion.line
        if (changed := self._session.source.stop_reason) is not None:
            return "failed", POLICY_CHANGED, changed
        if ending is not None and (status["phase"] != "stopped" or fault == "operator_stop"):
            return "interrupted", OPERATOR, ending
        if status["phase"] != "stopped" or self._is_paused():
            return "finished", None, None
        if fault == "signal":
            name = signal.Signals(self._session.signals.signal).name
            return "interrupted", name, f"interrupted by {name}"
        explanation = self._explanation() if fault in OF_THE_DRIVER else ""
        if fault in WITHOUT_CHUNKS:
            explanation = self._session.source.trouble or ""
        if explanation and explanation not in reason:
            reason = f"{reason} ({explanation})"
        return "failed", fault, reason


@dataclass(frozen=True, kw_only=True)
class _EndedSession:
    """What is kept of a session of the control thread for the result of its episode."""

    stats: Mapping[str, Any]
    commands: CommandCounts
    num_out_of_limit: int


def _total_counts(counts: Sequence[CommandCounts]) -> CommandCounts:
    """Returns the sums, None where a driver has not said."""

    def total(values: Sequence[int | None]) -> int | None:
        known = [value for value in values if value is not None]
        return sum(known) if len(known) == len(values) else None

    return CommandCounts(
        sent=sum(entry.sent for entry in counts),
        accepted=total([entry.accepted for entry in counts]),
        superseded=total([entry.superseded for entry in counts]),
    )
