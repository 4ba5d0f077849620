"""One episode: a robot, a source of chunks and a control loop, tick by tick.

    source --chunk--> loop --command--> robot --stages--> watch
       ^                |
       '-- observation wanted

Nothing here depends on clocks, bundles or simulators: the loop provides the clock, the source the
bundle and the robot the simulator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flux_core.robots import RobotSpec

from ..robots import Robot, SimulatedRobot
from .command_monitor import CommandMonitor
from .policy_source import ChunkRequest, ChunkSink, ChunkSource
from .success import STRICT_HOLD_TICKS, SuccessWatch


class TickLoop(ChunkSink, Protocol):
    """The part of `flux_runtime._core.ControlLoop` that an episode uses."""

    def start(self, command: NDArray[np.float32]) -> None:
        """Starts by holding `command`."""
        ...

    def needs_observation(self) -> bool:
        """Whether a chunk is needed and none is pending."""
        ...

    def wait_for_tick(self) -> float:
        """Waits for the next tick and returns how late it starts, in seconds."""
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


@dataclass(kw_only=True)
class EpisodeTrace:
    """What happened at each tick.

    Attributes:
        states: (state_dim,) float32 each, read before the command.
        commands: (action_dim,) float32 each, as sent.
        flags: status bits of each tick.
        lateness_s: how late each tick started.
        chunk_starts: ticks at which a chunk was requested.
    """

    states: list[NDArray[np.float32]] = field(default_factory=list[NDArray[np.float32]])
    commands: list[NDArray[np.float32]] = field(default_factory=list[NDArray[np.float32]])
    flags: list[int] = field(default_factory=list[int])
    lateness_s: list[float] = field(default_factory=list[float])
    chunk_starts: list[int] = field(default_factory=list[int])


@dataclass(frozen=True, kw_only=True)
class EpisodeResult:
    """The result of an episode; both kinds of success are None if the robot cannot tell."""

    seed: int
    steps: int
    success: bool | None
    strict_success: bool | None
    stages: dict[str, bool]
    commands_out_of_limit: int
    stats: Mapping[str, Any]
    trace: EpisodeTrace

    def summary(self) -> dict[str, object]:
        """Returns the episode as `--json` prints it."""
        return {
            "seed": self.seed,
            "success": self.success,
            "strict_success": self.strict_success,
            "steps": self.steps,
            **self.stages,
            "commands_out_of_limit": self.commands_out_of_limit,
        }


def run_episode(
    *,
    robot: Robot,
    spec: RobotSpec | None = None,
    source: ChunkSource,
    loop: TickLoop,
    prompt: str,
    seed: int,
    max_steps: int,
    on_tick: Callable[[int], None] = lambda step: None,
    hold_ticks: int = STRICT_HOLD_TICKS,
) -> EpisodeResult:
    """Drives `robot` until its task is done (strict success) or `max_steps` have passed.

    Args:
        robot: a connected robot; a simulated one is reset to `seed`.
        spec: the robot's spec with the limits in force, which commands are checked against
            (default: the robot's own spec).
        source: provides the chunks that the loop requests.
        loop: a new loop that has not been started; it is always stopped at the end.
        prompt: the task in words.
        seed: seed of the start state and of the noise.
        max_steps: longest episode, in control steps.
        on_tick: called after each command with the number of commands sent so far.
        hold_ticks: number of ticks for which the end state must hold before the task is done.
    """
    watch = None
    if isinstance(robot, SimulatedRobot):
        robot.reset(seed)
        watch = SuccessWatch(
            success_stage=robot.success_stage, end_state=robot.end_state, hold_ticks=hold_ticks
        )
    spec = spec or robot.spec
    start = spec.hold(robot.state())
    monitor = CommandMonitor(spec, start)
    trace = EpisodeTrace()
    try:
        loop.start(start)
        for step in range(max_steps):
            if loop.needs_observation():
                chunk_index = len(trace.chunk_starts)
                trace.chunk_starts.append(step)
                request = ChunkRequest(seed=seed, chunk_index=chunk_index, prompt=prompt)
                source.submit(loop, robot, request)
            _tick(robot, loop, monitor, trace)
            on_tick(step + 1)
            if watch is not None and isinstance(robot, SimulatedRobot):
                watch.update(robot.stages())
                if watch.strict_success:
                    break
        stats = dict(loop.stats())
    finally:
        loop.stop()
    return EpisodeResult(
        seed=seed,
        steps=len(trace.commands),
        success=None if watch is None else watch.success,
        strict_success=None if watch is None else watch.strict_success,
        stages={} if watch is None else watch.stages,
        commands_out_of_limit=monitor.num_out_of_limit,
        stats=stats,
        trace=trace,
    )


def _tick(robot: Robot, loop: TickLoop, monitor: CommandMonitor, trace: EpisodeTrace) -> None:
    """Sends one command, and records the tick only after sending it."""
    lateness_s = loop.wait_for_tick()
    state = robot.state()
    command, flags = loop.tick()
    robot.command(command)
    monitor.check(command)
    trace.states.append(state.copy())
    trace.commands.append(command.copy())
    trace.flags.append(flags)
    trace.lateness_s.append(lateness_s)
