"""The sources of action chunks: a policy, or holding the start state."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flux_core.bundle import Bundle, Manifest
from flux_core.errors import UsageError
from flux_core.robots import RobotSpec
from flux_core.types import Observation

from ..engines.core import load_core
from ..engines.graph_inputs import user_inputs
from ..robots import SimulatedRobot
from .episode_log import ChunkInputs, ReplayLog
from .latency import StageTimes
from .preflight import check_encoding


class ObservationEncoder(Protocol):
    """The part of `flux_core.policy_io.PolicyIO` that is used here."""

    @property
    def scale(self) -> NDArray[np.float32]:
        """(action_dim,): action = normalised action * scale + offset + ..."""
        ...

    @property
    def offset(self) -> NDArray[np.float32]:
        """(action_dim,), in robot units."""
        ...

    @property
    def relative_mask(self) -> NDArray[np.bool_]:
        """(action_dim,): ... + the observed state, in the dimensions where this is true."""
        ...

    @property
    def binary_mask(self) -> NDArray[np.bool_]:
        """(action_dim,): the dimensions where an action is 0 or 1."""
        ...

    def encode(self, observation: Observation) -> dict[str, NDArray[Any]]:
        """Turns an observation into the graphs' user inputs."""
        ...

    def most_tokens(self, prompt: str) -> int:
        """Returns how many tokens the prompt of a task has at most."""
        ...


class ChunkSink(Protocol):
    """The part of `flux_runtime._core.ControlLoop` that accepts chunks."""

    def submit(
        self, inputs: dict[str, NDArray[Any]], state: NDArray[np.float32], noise: NDArray[Any]
    ) -> None:
        """Starts inferring a chunk."""
        ...

    def submit_chunk(self, actions: NDArray[np.float32]) -> None:
        """Schedules a finished chunk, (H, A) in robot units."""
        ...


@dataclass(frozen=True, kw_only=True)
class ChunkRequest:
    """Which chunk is requested: the episode's seed, the chunk's index within it, and the task.

    `log` receives what the chunk is made from.
    """

    seed: int
    chunk_index: int
    prompt: str
    log: ReplayLog | None = None


class ChunkSource(Protocol):
    """Provides the chunks that the control loop requests."""

    name: str
    engine: str
    execution_horizon: int
    action_horizon: int
    cameras: Sequence[str]

    @property
    def binary_mask(self) -> NDArray[np.bool_]:
        """(action_dim,) True where its actions are 0 or 1."""
        ...

    @property
    def stop_reason(self) -> str | None:
        """Why nothing that it provides may be executed any more; None if it may."""
        ...

    @property
    def trouble(self) -> str | None:
        """Why it provides nothing now, in one line; None if it does, or that is not known."""
        ...

    def submit(self, loop: ChunkSink, robot: SimulatedRobot, request: ChunkRequest) -> None:
        """Observes the robot and submits a chunk to `loop`."""
        ...

    def loop_arguments(self, continuation: Mapping[str, Any]) -> dict[str, Any]:
        """Returns `policy` and `decoder` of the ControlLoop; see `PolicySource`."""
        ...

    def describe(self) -> dict[str, object]:
        """Returns further facts for the report of a run."""
        ...


class HoldSource:
    """Holds the start state of the episode. Needs no bundle and no cameras."""

    name = "hold"
    engine = "none"
    cameras: Sequence[str] = ()
    stop_reason: str | None = None
    trouble: str | None = None

    def __init__(self, spec: RobotSpec) -> None:
        self.execution_horizon = self.action_horizon = max(1, round(spec.control_hz / 2))
        self._action_dim = spec.action_dim
        self.binary_mask = np.zeros(spec.action_dim, np.bool_)
        self._start: NDArray[np.float32] = np.zeros(spec.action_dim, np.float32)

    def submit(self, loop: ChunkSink, robot: SimulatedRobot, request: ChunkRequest) -> None:
        """Submits a chunk that repeats the command that holds the episode's first state."""
        state = robot.state()
        if request.chunk_index == 0:
            self._start = robot.spec.hold(state)
        rows = np.tile(self._start, (self.execution_horizon, 1))
        if request.log is not None:
            observation = Observation(
                images={}, state=state.copy(), prompt=request.prompt, timestamp_s=0.0
            )
            index = {"index": request.chunk_index}
            request.log.add_chunk(ChunkInputs(request=index, observation=observation, rows=rows))
        loop.submit_chunk(rows)

    def describe(self) -> dict[str, object]:
        """Returns no further facts."""
        return {}

    def loop_arguments(self, continuation: Mapping[str, Any]) -> dict[str, Any]:
        """Returns no policy and a decoder that changes nothing."""
        width = self._action_dim
        decoder = load_core().ActionDecoder(
            scale=np.ones(width, np.float32),
            offset=np.zeros(width, np.float32),
            relative_mask=np.zeros(width, np.bool_),
        )
        return {"policy": None, "decoder": decoder}


class PolicySource:
    """Infers chunks with a policy, wherever that is."""

    name = "policy"
    may_stall = False
    """Whether a chunk may take much longer than the others, for no reason of the policy's."""

    def __init__(
        self,
        *,
        manifest: Manifest,
        engine: str,
        times: StageTimes,
    ) -> None:
        """Takes the sizes of a policy.

        Args:
            manifest: of its bundle, with the changes of the run.
            engine: what infers.
            times: records the times of the stages.
        """
        self.engine = engine
        self.execution_horizon = manifest.execution_horizon
        self.action_horizon = manifest.action_horizon
        self.cameras: Sequence[str] = manifest.cameras
        self._action_shape = (manifest.action_horizon, manifest.action_dim)
        self._times = times

    @property
    def binary_mask(self) -> NDArray[np.bool_]:
        """(action_dim,) True where its actions are 0 or 1."""
        arrays = self.decoder_arrays()
        return arrays.get("binary_mask", np.zeros(len(arrays["scale"]), np.bool_))

    @property
    def stop_reason(self) -> str | None:
        """Why nothing that it infers may be executed any more; None if it may."""
        return None

    @property
    def trouble(self) -> str | None:
        """Why it infers nothing now, in one line; None if it does, or that is not known."""
        return None

    def submit(self, loop: ChunkSink, robot: SimulatedRobot, request: ChunkRequest) -> None:
        """Observes, encodes, draws the noise for (seed, chunk index), and submits."""
        with self._times.measure("render"):
            observation = robot.observe(request.prompt, self.cameras)
        inputs = self.encode(observation)
        noise = self.noise(request.seed, request.chunk_index)
        # Relative actions are relative to this; unused if commands are differences.
        base = robot.spec.hold(observation.state)
        if request.log is not None:
            request.log.add_chunk(
                ChunkInputs(
                    request={"index": request.chunk_index},
                    observation=_copied(observation),
                    encoded=self.recorded_inputs(inputs),
                    base=base.copy(),
                    noise=noise,
                )
            )
        loop.submit(inputs, base, noise)

    def encode(
        self, observation: Observation, captured_ns: Mapping[str, int] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Returns the policy's inputs for an observation.

        Args:
            observation: as the robot delivers it.
            captured_ns: in real time, when the state ('state') and each picture were taken.
        """
        with self._times.measure("encode"):
            return self._encoded(observation, captured_ns)

    def _encoded(
        self, observation: Observation, captured_ns: Mapping[str, int] | None
    ) -> dict[str, NDArray[Any]]:
        raise NotImplementedError

    def recorded_inputs(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Returns what a recording keeps of the inputs, beside the observation."""
        return inputs

    def infer(
        self, observation: Observation, base: NDArray[np.float32], request: ChunkRequest
    ) -> NDArray[np.float32]:
        """Returns the chunk of a request, (H, action_dim) in robot units, without any loop.

        Args:
            observation: as the robot delivers it.
            base: (action_dim,) what relative actions are relative to.
            request: which chunk it is.
        """
        normalised = self._policy_for({}).infer(
            self.encode(observation), self.noise(request.seed, request.chunk_index)
        )
        decoder = load_core().ActionDecoder(**self.decoder_arrays())
        return decoder.decode(normalised, base)

    def measure_s(self, observation: Observation, continuation: Mapping[str, Any]) -> float:
        """Returns how long it takes to encode an observation and to infer a chunk that continues
        the running one.

        Args:
            observation: as the robot delivers it.
            continuation: the arguments of `_core.ContinuationSettings`.
        """
        settings = load_core().ContinuationSettings(**continuation)
        delay = settings.largest_usable_delay(
            execution_horizon=self.execution_horizon, action_horizon=self.action_horizon
        )
        previous = np.zeros(self._action_shape, np.float32)
        policy = self._policy_for(continuation)
        began_s = time.perf_counter()
        policy.infer(
            self._encoded(observation, None),
            self.noise(0, 0),
            previous=previous,
            prefix_len=delay or 0,
            continuation=settings,
        )
        return time.perf_counter() - began_s

    def check_observation(self, observation: Observation, spec: RobotSpec) -> None:
        """Refuses an observation that the policy cannot use.

        Args:
            observation: as the robot delivers it, with the task of the run.
            spec: of the robot.

        Raises:
            FluxError: it does not fit.
        """
        raise NotImplementedError

    def end_waiting_if(self, interrupted: Callable[[], bool]) -> None:
        """Says what ends the waits of this source, if it has any: the operator's signal."""

    def check_task(self, task: str) -> None:
        """Refuses a task that the policy cannot take, as far as that is known without asking it.

        Raises:
            UsageError: its prompt is too long.
        """

    def noise(self, seed: int, chunk_index: int) -> NDArray[np.float32]:
        """Returns the noise of a chunk; see `chunk_noise`."""
        return chunk_noise(seed, chunk_index, self._action_shape)

    def loop_arguments(self, continuation: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the policy and the decoder from its actions to robot units.

        Args:
            continuation: the arguments of the loop's `_core.ContinuationSettings`.
        """
        decoder = load_core().ActionDecoder(**self.decoder_arrays())
        return {"policy": self._policy_for(continuation), "decoder": decoder}

    def _policy_for(self, continuation: Mapping[str, Any]) -> Any:
        """Returns the `_core.Policy`, for a loop whose chunks continue each other like that."""
        raise NotImplementedError

    def decoder_arrays(self) -> dict[str, NDArray[Any]]:
        """Returns what turns the policy's actions into robot units, each (action_dim,)."""
        raise NotImplementedError

    def describe(self) -> dict[str, object]:
        """Returns further facts for the report of a run."""
        return {}


class BundleSource(PolicySource):
    """Infers chunks with a bundle's network."""

    name = "bundle"

    def __init__(
        self,
        *,
        bundle: Bundle,
        encoder: ObservationEncoder,
        policy: Any,
        engine: str,
        times: StageTimes,
    ) -> None:
        super().__init__(manifest=bundle.manifest, engine=engine, times=times)
        self._manifest = bundle.manifest
        self._input_names = user_inputs(bundle.manifest).keys()
        self._encoder = encoder
        self._policy = policy

    def _encoded(
        self, observation: Observation, captured_ns: Mapping[str, int] | None
    ) -> dict[str, NDArray[Any]]:
        encoded = self._encoder.encode(observation)
        # Not every network has a state input beside the prompt, so pass only the graphs' inputs.
        return {name: encoded[name] for name in self._input_names}

    def check_observation(self, observation: Observation, spec: RobotSpec) -> None:
        """Refuses an observation that the transforms do not make the graphs' inputs of."""
        check_encoding(self._encoder.encode(observation), self._manifest)

    def check_task(self, task: str) -> None:
        """Refuses a task whose prompt has more tokens than the graphs take."""
        most, got = self._manifest.max_prompt_tokens, self.num_tokens(task)
        if got > most:
            raise UsageError(
                f"task {task!r}: expected at most {most} tokens, got {got}. Shorten it, or "
                f"begin a new run with --task"
            )

    def num_tokens(self, task: str) -> int:
        """Returns how many tokens the prompt of a task has at most."""
        return self._encoder.most_tokens(task)

    def _policy_for(self, continuation: Mapping[str, Any]) -> Any:
        return self._policy

    def decoder_arrays(self) -> dict[str, NDArray[Any]]:
        """Returns what turns the network's actions into robot units, each (action_dim,)."""
        encoder = self._encoder
        return decoder_arrays(
            encoder.scale, encoder.offset, encoder.relative_mask, encoder.binary_mask
        )


def decoder_arrays(
    scale: NDArray[np.float32],
    offset: NDArray[np.float32],
    relative_mask: NDArray[np.bool_],
    binary_mask: NDArray[np.bool_],
) -> dict[str, NDArray[Any]]:
    """Returns the arguments of `_core.ActionDecoder`; recordings keep them, so a mask that says
    nothing is left out, as it was before there was one."""
    arrays: dict[str, NDArray[Any]] = {
        "scale": scale,
        "offset": offset,
        "relative_mask": relative_mask,
    }
    return arrays | ({"binary_mask": binary_mask} if binary_mask.any() else {})


def _copied(observation: Observation) -> Observation:
    """A simulator may use its arrays again."""
    images = {name: image.copy() for name, image in observation.images.items()}
    return replace(observation, images=images, state=observation.state.copy())


def chunk_noise(seed: int, chunk_index: int, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Draws standard normal noise that depends only on the seed and the index, on every machine."""
    generator = np.random.default_rng([seed, chunk_index])
    return generator.standard_normal(shape, dtype=np.float32)
