"""One episode: a robot, a source of chunks and a control loop, tick by tick.

    source --chunk--> loop --command--> robot --stages--> watch
       ^                |
       '-- observation wanted

Nothing here knows of clocks, bundles or simulators: the loop brings the first, the source the
second, the robot the third.
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
    """What an episode needs of `flux_runtime._core.ControlLoop`."""

    def start(self, command: NDArray[np.float32]) -> None:
        """Begins to hold `command`."""
        ...

    def needs_observation(self) -> bool:
        """Whether a chunk is wanted."""
        ...

    def wait_for_tick(self) -> float:
        """Waits for the next tick and returns how late it is, in seconds."""
        ...

    def tick(self) -> tuple[NDArray[np.float32], int]:
        """Returns the next command and its status flags."""
        ...

    def stats(self) -> Mapping[str, Any]:
        """Returns counts and histograms."""
        ...

    def stop(self) -> None:
        """Ends the inference thread."""
        ...


@dataclass(kw_only=True)
class EpisodeTrace:
    """What happened at each tick.

    Attributes:
        states: (state_dim,) float32 before the command.
        commands: (action_dim,) float32 as sent.
        flags: status bits of the tick.
        lateness_s: how late the tick began.
        chunk_starts: ticks at which a chunk was asked for.
    """

    states: list[NDArray[np.float32]] = field(default_factory=list[NDArray[np.float32]])
    commands: list[NDArray[np.float32]] = field(default_factory=list[NDArray[np.float32]])
    flags: list[int] = field(default_factory=list[int])
    lateness_s: list[float] = field(default_factory=list[float])
    chunk_starts: list[int] = field(default_factory=list[int])


@dataclass(frozen=True, kw_only=True)
class EpisodeResult:
    """How an episode went. `success` and `strict_success` are None on a robot that cannot tell."""

    seed: int
    steps: int
    success: bool | None
    strict_success: bool | None
    stages: dict[str, bool]
    commands_out_of_limit: int
    stats: Mapping[str, Any]
    trace: EpisodeTrace

    def summary(self) -> dict[str, object]:
        """Returns what `--json` says of the episode."""
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
    """Drives `robot` until its task is done for good or `max_steps` have passed.

    Args:
        robot: connected; a simulated one is reset to `seed`.
        spec: the robot's with the limits in force, by which commands are counted (default: the
            robot's own).
        source: answers the loop's wish for chunks.
        loop: fresh, not yet started; it is stopped at the end, whatever happens.
        prompt: the task in words.
        seed: of the start and of the noise.
        max_steps: longest episode, in control steps.
        on_tick: called after each command with the number of commands sent so far.
        hold_ticks: for so long the end state must hold before the task is done for good.
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
    """Sends one command. The command goes out before anything is written down."""
    lateness_s = loop.wait_for_tick()
    state = robot.state()
    command, flags = loop.tick()
    robot.command(command)
    monitor.check(command)
    trace.states.append(state.copy())
    trace.commands.append(command.copy())
    trace.flags.append(flags)
    trace.lateness_s.append(lateness_s)
