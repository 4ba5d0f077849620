"""A source of chunks that compares each of them with the recorded actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..control.policy_source import ChunkRequest, ChunkSink, PolicySource
from ..control.session import RunOptions, Session
from ..robots import SimulatedRobot
from .comparison import Chunk, Comparison


@runtime_checkable
class PlaysRecordings(Protocol):
    """What a robot that plays recordings has beside the parts of a `SimulatedRobot`."""

    @property
    def num_episodes(self) -> int: ...
    @property
    def longest_episode(self) -> int:
        """Control steps."""
        ...

    @property
    def episode_index(self) -> int: ...
    @property
    def tasks(self) -> Sequence[str]: ...
    def recorded_actions(self, count: int) -> NDArray[np.float32]:
        """Returns the actions of the coming control steps, the present one first."""
        ...


class RecordedSource:
    """Infers chunks as a `PolicySource` does, and once more for the comparison.

    Attributes:
        comparison: of all chunks.
    """

    def __init__(
        self, inner: PolicySource, comparison: Comparison, *, task: str | None = None
    ) -> None:
        """Wraps a source.

        Args:
            inner: provides the chunks.
            comparison: receives them.
            task: what the policy is asked for; None for the task of the recording.
        """
        self._inner = inner
        self._task = task
        self._step = 0
        self.comparison = comparison
        self.name, self.engine = inner.name, inner.engine
        self.execution_horizon, self.action_horizon = inner.execution_horizon, inner.action_horizon
        self.cameras: Sequence[str] = inner.cameras

    @property
    def binary_mask(self) -> NDArray[np.bool_]:
        """See `PolicySource`."""
        return self._inner.binary_mask

    @property
    def stop_reason(self) -> str | None:
        """See `PolicySource`."""
        return self._inner.stop_reason

    @property
    def trouble(self) -> str | None:
        """See `PolicySource`."""
        return self._inner.trouble

    def submit(self, loop: ChunkSink, robot: SimulatedRobot, request: ChunkRequest) -> None:
        """Infers a chunk and compares it, then lets the loop infer it."""
        assert isinstance(robot, PlaysRecordings), "it is made for such robots"
        request = replace(request, prompt=self._task or robot.task or request.prompt)
        if request.chunk_index == 0:
            self.comparison.begin(robot.episode_index, request.prompt)
        observation = robot.observe(request.prompt, self.cameras)
        spec = robot.spec
        held = spec.hold(observation.state)
        predicted = self._inner.infer(observation, held, request)
        recorded = robot.recorded_actions(len(predicted))
        step = round(observation.timestamp_s * spec.control_hz)
        chunk = Chunk(step=step, predicted=predicted, recorded=recorded)
        self.comparison.add(chunk, None if spec.is_commanded_by_differences else held)
        self._inner.submit(loop, robot, request)

    def loop_arguments(self, continuation: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the policy and its decoder."""
        return self._inner.loop_arguments(continuation)

    def describe(self) -> dict[str, object]:
        """Returns the policy's further facts."""
        return self._inner.describe()

    def decoder_arrays(self) -> dict[str, NDArray[Any]]:
        """Returns what turns the network's actions into robot units."""
        return self._inner.decoder_arrays()


def played_whole(session: Session, asked: RunOptions) -> Session:
    """Returns a session with recordings whose episodes are played to their ends, unless the options
    ask for less, and whose chunks are compared with them; any other session unchanged."""
    robot, options = session.robot, session.options
    if not isinstance(robot, PlaysRecordings):
        return session
    if asked.max_steps is None and asked.max_seconds is None:
        options = replace(options, max_steps=robot.longest_episode)
    options = replace(options, episodes=min(options.episodes, robot.num_episodes))
    if not isinstance(session.source, PolicySource):
        return replace(session, options=options)
    comparison = Comparison(
        session.spec.joint_names,
        session.source.action_horizon,
        num_drawn=options.video_episodes if options.report is not None else 0,
    )
    source = RecordedSource(session.source, comparison, task=options.task)
    return replace(session, source=source, options=options)
