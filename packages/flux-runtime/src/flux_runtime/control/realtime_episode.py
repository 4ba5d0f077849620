"""One episode in real time: supervises the control thread and keeps what it records.

    inference thread --chunk--> control thread (C++) --command--> driver process
                                      |
                         ticks and events, drained here at least 20 times a second

Nothing here is in the control thread's way: if this thread hangs, commands go on or stop as the
loop's own limits say, and its records wait in their rings.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np

from flux_core.command_line import StoppedBySignal
from flux_core.errors import RobotError

from ..realtime import DriverCancelled
from .command_monitor import RETURNING, CommandMonitor
from .episode import EpisodeResult, how_it_ended
from .episode_log import EpisodeLog, Event, Outcome, ReplayLog
from .latency import Histogram, since
from .realtime_rows import HOLDING, RUNNING, HoldWatch, SessionTimes
from .realtime_session import RealtimeSession
from .success import STRICT_HOLD_TICKS, SuccessWatch
from .trace import CommandCounts, RealtimeTrace

logger = logging.getLogger(__name__)

DRAIN_EVERY_S = 0.04
STEP_PHASES = (RUNNING, HOLDING)
"""Running and holding: the steps of an episode, without the way back to the limits and braking."""
PER_SESSION = ("tick", "jitter")
"""Stages that the control thread counts from zero in each session; others go on."""
ENDING = ("stopping", "finishing")
OF_THE_DRIVER = ("driver_stopped", "driver_failed", "driver_dead", "session_lost")
"""Stops whose reason only the driver's process knows."""
EXPLANATION_S = 0.3
"""How long to wait for that reason, which may arrive after the stop that it explains."""
END_TIMEOUT_S = 15.0
"""More than any braking takes; a control thread that still runs then cannot be trusted."""


def drive_realtime(
    session: RealtimeSession,
    seed: int,
    *,
    on_tick: Callable[[int], None] = lambda step: None,
    hold_ticks: int = STRICT_HOLD_TICKS,
    log: EpisodeLog | None = None,
    replay_log: ReplayLog | None = None,
    on_end: Callable[[EpisodeResult], None] = lambda result: None,
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

    Raises:
        RobotError: a fault stopped the robot.
        StoppedBySignal: the operator stopped it.
    """
    episode = RealtimeEpisode(session, seed, hold_ticks=hold_ticks, log=log, replay_log=replay_log)
    try:
        episode.start()
        episode.supervise(on_tick)
    except BaseException as error:  # The robot is stopped whatever has happened here.
        episode.stop(error)
        on_end(episode.result(error))
        raise
    result = episode.result(None)
    on_end(result)
    if result.outcome == "interrupted":
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


class RealtimeEpisode:
    """One session of the control thread; see `drive_realtime`."""

    def __init__(
        self,
        session: RealtimeSession,
        seed: int,
        *,
        hold_ticks: int,
        log: EpisodeLog | None,
        replay_log: ReplayLog | None,
    ) -> None:
        self._session = session
        self._loop = session.loop
        self._driver = session.driver
        self._seed = seed
        self._number = session.next_number()
        self._commands_per_step = session.command_hz / session.spec.control_hz
        self._trace = RealtimeTrace(session.command_hz)
        self._logs: list[EpisodeLog] = [self._trace, *([log] if log else [])]
        self._replay_log = replay_log
        self._dropped_before: Mapping[str, int] = session.loop.stats()["dropped"]
        self._times = SessionTimes(session.spec, session.source.cameras, time.monotonic_ns())
        self._monitor = self._new_monitor()
        self._holds = HoldWatch()
        self._has_started = False
        self._driver_stop = ""
        self._num_sent = 0
        self._reached: tuple[int, int] | None = (0, 0)
        self._num_used = 0
        self._before: Mapping[str, Histogram] = session.loop.stats()["histograms"]
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
        if driver.simulation is not None:
            try:
                driver.reset(self._seed, cancelled=session.is_signalled)
            except DriverCancelled as error:
                raise StoppedBySignal(session.signals.signal) from error
        is_return_confirmed = session.confirms_return()
        session.answerer.begin(self._seed, self._number, self._replay_log)
        driver.begin(self._number, stop_category=session.settings.stop_category)
        self._monitor = self._new_monitor()
        try:
            self._loop.start(
                self._number,
                confirmed_return=is_return_confirmed,
                max_ticks=round(session.options.max_steps * self._commands_per_step),
            )
        except ValueError as error:
            session.raise_if_signalled()  # which the loop may have seen first
            raise RobotError(f"{session.spec.name}: {error}") from error
        self._has_started = True
        if self._replay_log is not None:
            self._replay_log.add_start(self._loop.session_start())

    def supervise(self, on_tick: Callable[[int], None]) -> None:
        """Drains what happens until the episode is over and the robot is at rest."""
        ending_since_s: float | None = None
        while not self._loop.wait_until_ended(DRAIN_EVERY_S):
            self._drain()
            on_tick(self._steps)
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
        self._look_back()
        if self._loop.status()["phase"] == "idle":
            self._driver.end()

    def stop(self, error: BaseException) -> None:
        """Stops the robot because this thread cannot go on, and waits until it is at rest."""
        if not self._has_started:
            return
        _, _, reason = how_it_ended(error)
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
        stats: dict[str, Any] = {**self._loop.stats(), "ticks": self._num_used}
        stats["histograms"] = {
            stage: histogram if stage in PER_SESSION else since(self._before.get(stage), histogram)
            for stage, histogram in stats["histograms"].items()
            if stage != "intervals"  # `timing` has them
        }
        return EpisodeResult(
            seed=self._seed,
            steps=self._steps,
            success=watch.success if watch is not None and is_judged else None,
            strict_success=watch.strict_success if watch is not None and is_judged else None,
            stages={} if watch is None else watch.stages,
            commands_out_of_limit=self._monitor.num_out_of_limit,
            stats=stats,
            trace=self._trace.trace(),
            outcome=outcome,
            stopped_by=stopped_by,
            reason=reason,
            events=tuple(self._trace.events),
            timing=self._trace.timing(),
            commands=self._counts(),
            ended_in_hold=self._holds.fault() if outcome == "finished" and not is_done else None,
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
        return CommandMonitor(spec, start, self._session.command_hz)

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

    def _counts(self) -> CommandCounts:
        """Returns how many commands were sent, and reached the driver."""
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
        if status["phase"] != "stopped":
            return "finished", None, None
        if fault == "signal":
            name = signal.Signals(self._session.signals.signal).name
            return "interrupted", name, f"interrupted by {name}"
        if fault in OF_THE_DRIVER and (explanation := self._explanation()):
            reason = f"{reason} ({explanation})"
        return "failed", fault, reason
