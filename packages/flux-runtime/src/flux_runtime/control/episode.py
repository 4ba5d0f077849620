"""One episode: a robot, a source of chunks and a control loop, tick by tick.

    source --chunk--> loop --command--> robot --stages--> watch
       ^                |
       '-- observation wanted

Nothing here depends on clocks, bundles or simulators: the loop provides the clock, the source the
bundle and the robot the simulator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flux_core.robots import RobotSpec

from ..robots import EndingRobot, SimulatedRobot
from .command_monitor import CommandMonitor
from .episode_log import EpisodeLog, Event, Outcome, ReplayLog, tick_rows
from .policy_source import ChunkRequest, ChunkSink, ChunkSource
from .success import STRICT_HOLD_TICKS, SuccessWatch
from .trace import CommandCounts, EpisodeTrace, Timing

_LIMITS = ("position", "velocity", "acceleration", "jerk")
OF_THE_POLICY = ("non_finite", *_LIMITS, "border_jump", "stale")
"""Violations that the policy's chunks caused; in real time there are also faults of other parts."""


class TickLoop(ChunkSink, Protocol):
    """The part of `flux_runtime._core.ControlLoop` that an episode uses."""

    def start(self, command: NDArray[np.float32]) -> None:
        """Starts by holding `command`."""
        ...

    def needs_observation(self) -> bool:
        """Whether a chunk is needed and none is pending."""
        ...

    def tick(self) -> tuple[NDArray[np.float32], int]:
        """Returns the next command and its status flags."""
        ...

    def stats(self) -> Mapping[str, Any]:
        """Returns counts and histograms."""
        ...

    def stop(self) -> None:
        """Stops the inference thread."""
        ...


@dataclass(frozen=True, kw_only=True)
class EpisodeResult:
    """The result of an episode; both kinds of success are None if they are not known.

    Attributes:
        outcome: how it ended. `interrupted` and `failed` episodes ended early.
        stopped_by: what ended it early: a signal, a fault by name or the type of an error.
        reason: the same in words.
        events: what happened at single moments, in real time.
        timing: times between commands and ages of sensors, in real time.
        commands: how many were sent, and reached the robot, in real time.
        ended_in_hold: the fault for which the robot was held at the last step; None if it was not,
            or if the task was done.
        task: in words, in real time.
        pauses: how often the operator has paused it.
    """

    seed: int
    steps: int
    success: bool | None
    strict_success: bool | None
    stages: dict[str, bool]
    commands_out_of_limit: int
    stats: Mapping[str, Any]
    trace: EpisodeTrace
    outcome: Outcome = "finished"
    stopped_by: str | None = None
    reason: str | None = None
    events: Sequence[Event] = ()
    timing: Timing | None = None
    commands: CommandCounts | None = None
    ended_in_hold: str | None = None
    task: str | None = None
    pauses: int = 0

    def summary(self) -> dict[str, object]:
        """Returns the episode as `--json` prints it."""
        return {
            "seed": self.seed,
            "success": self.success,
            "strict_success": self.strict_success,
            "steps": self.steps,
            **self.stages,
            "commands_out_of_limit": self.commands_out_of_limit,
            "outcome": self.outcome,
            **({} if self.timing is None else self._realtime_summary()),
        }

    def _realtime_summary(self) -> dict[str, object]:
        return {"ended_in_hold": self.ended_in_hold, "task": self.task, "pauses": self.pauses}


class LockstepEpisode:
    """One episode in which the robot waits for the loop; see `run_episode`."""

    def __init__(
        self,
        *,
        robot: SimulatedRobot,
        spec: RobotSpec,
        loop: TickLoop,
        log: EpisodeLog | None,
        replay_log: ReplayLog | None,
        seed: int,
        hold_ticks: int,
        binary_mask: NDArray[np.bool_],
    ) -> None:
        self._robot = robot
        self._spec = spec
        self._binary_mask = binary_mask
        self._loop = loop
        self._log = log
        self._replay_log = replay_log
        self._seed = seed
        self._watch = SuccessWatch(
            success_stage=robot.success_stage, end_state=robot.end_state, hold_ticks=hold_ticks
        )
        self._monitor: CommandMonitor | None = None
        self._trace = EpisodeTrace()
        self._row = np.zeros(1, tick_rows(spec.state_dim, spec.action_dim))

    def start(self) -> None:
        """Resets the robot, and holds the start state."""
        self._robot.reset(self._seed)
        start = self._spec.hold(self._robot.state())
        self._monitor = CommandMonitor(self._spec, start, binary_mask=self._binary_mask)
        self._loop.start(start)
        if self._replay_log is not None:
            self._replay_log.add_start({"command": start.tolist()})

    def request(self, source: ChunkSource, prompt: str) -> None:
        """Submits a chunk if the loop needs one."""
        is_needed = self._loop.needs_observation()
        self._row["requested"] = is_needed
        if is_needed:
            chunk_index = len(self._trace.chunk_starts)
            self._trace.chunk_starts.append(len(self._trace.commands))
            request = ChunkRequest(
                seed=self._seed, chunk_index=chunk_index, prompt=prompt, log=self._replay_log
            )
            source.submit(self._loop, self._robot, request)

    def tick(self) -> None:
        """Sends one command, and records the tick only after sending it."""
        state = self._robot.state()
        command, flags = self._loop.tick()
        self._robot.command(command)
        assert self._monitor is not None
        self._monitor.check(command)
        self._trace.states.append(state.copy())
        self._trace.commands.append(command.copy())
        self._trace.flags.append(flags)
        self._trace.lateness_s.append(0.0)
        row, step = self._row, len(self._trace.commands) - 1
        row["state"], row["command"], row["flags"] = state, command, flags
        row["timestamp_s"] = step / self._spec.control_hz
        if self._log is not None:
            self._log.add_rows(row)
        if self._replay_log is not None:
            self._replay_log.add_ticks(row.copy())

    @property
    def is_done(self) -> bool:
        """Whether the task is done, after looking at the robot's stages, or the robot is."""
        self._watch.update(self._robot.stages())
        is_over = isinstance(self._robot, EndingRobot) and self._robot.is_over
        return self._watch.strict_success or is_over

    def result(self, error: BaseException | None) -> EpisodeResult:
        """Returns what has happened until now, and the error that ended it, if any."""
        watch = self._watch
        outcome, stopped_by, reason = how_it_ended(error)
        is_judged = bool(watch.stages) and (error is None or watch.success)
        return EpisodeResult(
            seed=self._seed,
            steps=len(self._trace.commands),
            success=watch.success if is_judged else None,
            strict_success=watch.strict_success if is_judged else None,
            stages=watch.stages,
            commands_out_of_limit=self._monitor.num_out_of_limit if self._monitor else 0,
            stats=dict(self._loop.stats()),
            trace=self._trace,
            outcome=outcome,
            stopped_by=stopped_by,
            reason=reason,
        )


def run_episode(
    *,
    robot: SimulatedRobot,
    spec: RobotSpec | None = None,
    source: ChunkSource,
    loop: TickLoop,
    prompt: str,
    seed: int,
    max_steps: int,
    on_tick: Callable[[int], None] = lambda step: None,
    hold_ticks: int = STRICT_HOLD_TICKS,
    log: EpisodeLog | None = None,
    replay_log: ReplayLog | None = None,
    before_tick: Callable[[], None] = lambda: None,
    on_end: Callable[[EpisodeResult], None] = lambda result: None,
) -> EpisodeResult:
    """Drives `robot` until its task is done (strict success) or `max_steps` have passed.

    Args:
        robot: a connected robot; it is reset to `seed`.
        spec: the robot's spec with the limits in force, which commands are checked against
            (default: the robot's own spec).
        source: provides the chunks that the loop requests.
        loop: a new loop that has not been started; it is always stopped at the end.
        prompt: the task in words.
        seed: seed of the start state and of the noise.
        max_steps: longest episode, in control steps.
        on_tick: called after each command with the number of commands sent so far.
        hold_ticks: number of ticks for which the end state must hold before the task is done.
        log: receives each tick as it happens.
        replay_log: receives all that the loop takes from outside.
        before_tick: called before each command, in the state that it is made in.
        on_end: called with the result, also if an error or Ctrl-C ends the episode early; the
            exception is raised afterwards.
    """
    episode = LockstepEpisode(
        robot=robot,
        spec=spec or robot.spec,
        loop=loop,
        log=log,
        replay_log=replay_log,
        seed=seed,
        hold_ticks=hold_ticks,
        binary_mask=source.binary_mask,
    )
    try:
        episode.start()
        for step in range(max_steps):
            before_tick()
            episode.request(source, prompt)
            episode.tick()
            on_tick(step + 1)
            if episode.is_done:
                break
    except BaseException as error:  # Ctrl-C too: what has happened until then is kept.
        loop.stop()
        on_end(episode.result(error))
        raise
    result = episode.result(None)
    loop.stop()
    on_end(result)
    return result


def how_it_ended(error: BaseException | None) -> tuple[Outcome, str | None, str | None]:
    """Returns the outcome, what caused it and the cause in words, of an error or of none."""
    if error is None:
        return "finished", None, None
    if isinstance(error, KeyboardInterrupt):
        name = str(error) or "SIGINT"  # StoppedBySignal names its signal
        return "interrupted", name, f"interrupted by {name}"
    if isinstance(error, SystemExit):
        return "interrupted", "SIGTERM", "interrupted by SIGTERM"
    words = " ".join(str(error).split()) or type(error).__name__
    return "failed", type(error).__name__, words
