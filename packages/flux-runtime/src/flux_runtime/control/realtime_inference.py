"""Answers a request for a chunk in real time: observe, check, encode, infer."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flux_core.robots import RobotSpec
from flux_core.types import Observation

from ..realtime.inference_thread import InferenceRequest
from .episode_log import ChunkInputs, ReplayLog
from .latency import StageTimes
from .policy_source import HoldSource, PolicySource
from .preflight import check_observation

NUM_TRIES = 5
"""Inferences that are timed before the robot moves."""
NUM_SEEN = 2
"""Inferences whose images are kept for another thread; each may be some megabytes."""
Frames = Mapping[str, tuple[NDArray[np.uint8], int]]


class ObservedDriver(Protocol):
    """The part of `DriverProcess` that is used here."""

    def observe(self, cameras: Sequence[str]) -> tuple[NDArray[np.float32], int, Frames]:
        """Returns the newest state, when it was captured, and the newest images, in ns."""
        ...


@dataclass(frozen=True, kw_only=True)
class MeasuredInference:
    """The times of an inference, on the monotonic clock; 0 for a sensor without data."""

    session: int
    began_ns: int
    looked_ns: int  # when the newest data had been taken
    ended_ns: int
    state_ns: int
    frames_ns: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class RobotView:
    """What a policy sees of a robot in real time.

    Attributes:
        driver: of the connected robot.
        source: of the chunks; says which cameras are used.
        spec: the robot's spec with the limits in force.
        prompt: the task in words.
    """

    driver: ObservedDriver
    source: PolicySource | HoldSource
    spec: RobotSpec
    prompt: str

    def observe(self) -> tuple[Observation, int, dict[str, int]]:
        """Returns the newest observation, checked, and the capture times of state and images.

        Raises:
            RobotError: the observation cannot be used.
        """
        cameras = self.source.cameras
        state, state_ns, frames = self.driver.observe(cameras)
        observation = Observation(
            images={name: image for name, (image, _) in frames.items()},
            state=state,
            prompt=self.prompt,
            timestamp_s=state_ns * 1e-9,
        )
        check_observation(observation, self.spec, cameras)
        return observation, state_ns, {name: at_ns for name, (_, at_ns) in frames.items()}

    def first_latency_s(self, continuation: Mapping[str, Any]) -> float:
        """Measures how long it takes from looking at the robot to a chunk, without executing one.

        Args:
            continuation: the arguments of `_core.ContinuationSettings`.

        Returns:
            The longest of some tries, in seconds, or the second longest if a single one may stall;
            0 for a source without a policy.

        Raises:
            RobotError: the observation cannot be used.
        """
        if isinstance(self.source, HoldSource):
            return 0.0
        latencies: list[float] = []
        for _ in range(1 + NUM_TRIES):  # the first one is slower than any later one
            began_s = time.perf_counter()
            observation, _, _ = self.observe()
            looked_s = time.perf_counter() - began_s
            latencies.append(looked_s + self.source.measure_s(observation, continuation))
        return sorted(latencies[1:])[-2 if self.source.may_stall else -1]


class PlannedMotion(Protocol):
    """A motion of its own, such as to the prepare pose.

    Attributes:
        is_over: whether all of its rows have been executed.
    """

    @property
    def is_over(self) -> bool: ...

    def rows(self, first: int, count: int) -> NDArray[np.float32]:
        """Returns `count` of its rows from row `first` on, (count, A), in robot units."""
        ...


class ChunkAnswerer:
    """Makes the chunks of one session after another; called on the inference thread.

    Attributes:
        measured: the times of the inferences, for another thread to take. It has a bound, so that
            nobody has to.
        view: what the policy sees, with the task of the session.
    """

    def __init__(self, *, loop: Any, view: RobotView, times: StageTimes) -> None:
        self.measured: deque[MeasuredInference] = deque(maxlen=1000)
        self._seen: deque[Mapping[str, NDArray[np.uint8]]] = deque(maxlen=NUM_SEEN)
        self._loop = loop
        self.view = view
        self._source = view.source
        self._spec = view.spec
        self._times = times
        self._seed = 0
        self._held: NDArray[np.float32] | None = None
        self._logs: dict[int, ReplayLog] = {}
        self._motion: PlannedMotion | None = None

    def begin(
        self,
        seed: int,
        session: int = 0,
        log: ReplayLog | None = None,
        *,
        prompt: str | None = None,
        motion: PlannedMotion | None = None,
    ) -> None:
        """Prepares for a session; the loop must not have asked for a chunk of it yet.

        Args:
            seed: of the noise.
            session: its number.
            log: receives what its chunks are made from; an inference of the last session, which may
                still run, keeps its own.
            prompt: the task in words; the view's by default.
            motion: executed instead of chunks of the policy.
        """
        self._seed = seed
        self._motion = motion
        if prompt is not None:
            self.view = replace(self.view, prompt=prompt)
        self._held = None
        self._logs = {} if log is None else {session: log}

    def take_seen(self) -> list[Mapping[str, NDArray[np.uint8]]]:
        """Returns the images of the newest inferences since the last call; on any thread."""
        seen: list[Mapping[str, NDArray[np.uint8]]] = []
        while self._seen:
            seen.append(self._seen.popleft())
        return seen

    def __call__(self, request: InferenceRequest) -> None:
        """Answers a request.

        Raises:
            RobotError: the observation cannot be used.
        """
        log = self._logs.get(request.session)
        if log is None:
            self._answer(request, None)
            return
        try:
            self._answer(request, log)
        except Exception as error:  # The loop decides what follows, and a replay does the same.
            log.add_answer(request.as_data(), None, " ".join(str(error).split()))
            raise

    def _answer(self, request: InferenceRequest, log: ReplayLog | None) -> None:
        if (motion := self._motion) is not None:
            _, state_ns, _ = self.view.driver.observe(())
            rows = motion.rows(request.as_data()["next_row"], self._source.action_horizon)
            self._loop.submit_chunk(request, rows, state_ns)
            return
        began_ns = time.monotonic_ns()
        with self._times.measure("observe"):
            observation, state_ns, frames_ns = self.view.observe()
        looked_ns = time.monotonic_ns()
        self._seen.append(observation.images)
        observed_ns = min([state_ns, *frames_ns.values()])
        if isinstance(self._source, HoldSource):
            self._hold(request, observation, observed_ns, log)
        else:
            captured_ns = {"state": state_ns, **frames_ns}
            self._infer(self._source, request, observation, captured_ns, log)
        self.measured.append(
            MeasuredInference(
                session=request.session,
                began_ns=began_ns,
                looked_ns=looked_ns,
                ended_ns=time.monotonic_ns(),
                state_ns=state_ns,
                frames_ns=frames_ns,
            )
        )

    def _hold(
        self,
        request: InferenceRequest,
        observation: Observation,
        observed_ns: int,
        log: ReplayLog | None,
    ) -> None:
        if self._held is None:
            start = self._spec.hold(observation.state)
            self._held = np.clip(start, self._spec.lower, self._spec.upper).astype(np.float32)
        rows = np.tile(self._held, (self._source.execution_horizon, 1))
        if log is not None:
            log.add_chunk(
                ChunkInputs(
                    request=request.as_data(),
                    observation=observation,
                    observed_ns=observed_ns,
                    rows=rows,
                )
            )
        self._loop.submit_chunk(request, rows, observed_ns)

    def _infer(
        self,
        source: PolicySource,
        request: InferenceRequest,
        observation: Observation,
        captured_ns: Mapping[str, int],
        log: ReplayLog | None,
    ) -> None:
        observed_ns = min(captured_ns.values())
        inputs = source.encode(observation, captured_ns)
        noise = source.noise(self._seed, request.index)
        # Relative actions are relative to this; unused if commands are differences.
        state = self._spec.hold(observation.state)
        if log is None:
            self._loop.infer(request, inputs, state, noise, observed_ns)
            return
        data = request.as_data()
        log.add_chunk(
            ChunkInputs(
                request=data,
                observation=observation,
                observed_ns=observed_ns,
                encoded=source.recorded_inputs(inputs),
                base=state,
                noise=noise,
            )
        )
        if self._loop.infer(request, inputs, state, noise, observed_ns):
            log.add_answer(data, self._loop.inferred_actions())
