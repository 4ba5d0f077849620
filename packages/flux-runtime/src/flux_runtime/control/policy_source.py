"""Where action chunks come from: a bundle's network, or holding the start state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flux_core.bundle import Bundle
from flux_core.robots import RobotSpec
from flux_core.types import Observation

from ..engines.core import load_core
from ..engines.graph_inputs import user_inputs
from ..robots import Robot
from .latency import StageTimes


class ObservationEncoder(Protocol):
    """What is needed of `flux_core.policy_io.PolicyIO`."""

    @property
    def scale(self) -> NDArray[np.float32]:
        """(action_dim,): actual action = normalised action * scale + offset + ..."""
        ...

    @property
    def offset(self) -> NDArray[np.float32]:
        """(action_dim,), in robot units."""
        ...

    @property
    def relative_mask(self) -> NDArray[np.bool_]:
        """(action_dim,): ... + the observed state where this is true."""
        ...

    def encode(self, observation: Observation) -> dict[str, NDArray[Any]]:
        """Turns an observation into the graphs' user inputs."""
        ...


class ChunkSink(Protocol):
    """The side of `flux_runtime._core.ControlLoop` that takes chunks."""

    def submit(
        self, inputs: dict[str, NDArray[Any]], state: NDArray[np.float32], noise: NDArray[Any]
    ) -> None:
        """Starts the inference of a chunk."""
        ...

    def submit_chunk(self, actions: NDArray[np.float32]) -> None:
        """Schedules a ready chunk, (H, A) in robot units."""
        ...


@dataclass(frozen=True, kw_only=True)
class ChunkRequest:
    """When a chunk is wanted: the episode's seed, the chunk's index within it, and the task."""

    seed: int
    chunk_index: int
    prompt: str


class ChunkSource(Protocol):
    """Answers the control loop's wish for a chunk."""

    name: str
    engine: str
    execution_horizon: int

    def submit(self, loop: ChunkSink, robot: Robot, request: ChunkRequest) -> None:
        """Looks at the robot and gives `loop` a chunk."""
        ...

    def loop_arguments(self) -> dict[str, Any]:
        """Returns `policy` and `decoder` of the ControlLoop."""
        ...


class HoldSource:
    """Stays where the episode began. Needs no bundle and no cameras."""

    name = "hold"
    engine = "none"

    def __init__(self, spec: RobotSpec) -> None:
        self.execution_horizon = max(1, round(spec.control_hz / 2))
        self._action_dim = spec.action_dim
        self._start: NDArray[np.float32] = np.zeros(spec.action_dim, np.float32)

    def submit(self, loop: ChunkSink, robot: Robot, request: ChunkRequest) -> None:
        """Gives a chunk of copies of the command that keeps the episode's first state."""
        if request.chunk_index == 0:
            self._start = robot.spec.hold(robot.state())
        loop.submit_chunk(np.tile(self._start, (self.execution_horizon, 1)))

    def loop_arguments(self) -> dict[str, Any]:
        """Returns no policy and a decoder that changes nothing."""
        width = self._action_dim
        decoder = load_core().ActionDecoder(
            scale=np.ones(width, np.float32),
            offset=np.zeros(width, np.float32),
            relative_mask=np.zeros(width, np.bool_),
        )
        return {"policy": None, "decoder": decoder}


class BundleSource:
    """Asks a bundle's network."""

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
        self.engine = engine
        self.execution_horizon = bundle.manifest.execution_horizon
        self._action_shape = (bundle.manifest.action_horizon, bundle.manifest.action_dim)
        self._cameras = bundle.manifest.cameras
        self._input_names = user_inputs(bundle.manifest).keys()
        self._encoder = encoder
        self._policy = policy
        self._times = times

    def submit(self, loop: ChunkSink, robot: Robot, request: ChunkRequest) -> None:
        """Observes, encodes, draws the noise that (seed, chunk index) names, and submits."""
        with self._times.measure("render"):
            observation = robot.observe(request.prompt, self._cameras)
        with self._times.measure("encode"):
            encoded = self._encoder.encode(observation)
        # Not every network takes the state beside the prompt: the graphs say what they take.
        inputs = {name: encoded[name] for name in self._input_names}
        noise = chunk_noise(request.seed, request.chunk_index, self._action_shape)
        # What relative actions are relative to; a robot of differences has none.
        loop.submit(inputs, robot.spec.hold(observation.state), noise)

    def loop_arguments(self) -> dict[str, Any]:
        """Returns the network and the way back to robot units."""
        decoder = load_core().ActionDecoder(
            scale=self._encoder.scale,
            offset=self._encoder.offset,
            relative_mask=self._encoder.relative_mask,
        )
        return {"policy": self._policy, "decoder": decoder}


def chunk_noise(seed: int, chunk_index: int, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Draws standard normal noise; the same seed and index give the same on every machine."""
    generator = np.random.default_rng([seed, chunk_index])
    return generator.standard_normal(shape, dtype=np.float32)
