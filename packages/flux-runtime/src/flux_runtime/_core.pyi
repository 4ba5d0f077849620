"""The C++ core: flow-matching inference and the control loop.

Letters in shapes: H action_horizon, A the robot's action_dim, N the network's action_dim (at least
A; a network trained on several robots is wider than most of them).

A wrong name, type or shape raises ValueError, told as `name: expected X, got Y`; a failing engine
or a call out of turn raises RuntimeError.
"""

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

HELD: int
"""The command repeats the last one: there was no usable action."""
CLIPPED_POSITION: int
"""The action lay outside the position limits."""
CLIPPED_VELOCITY: int
"""The action was further away than one tick may move."""
NON_FINITE: int
"""The action held a NaN or an infinity."""
STALE: int
"""The observation behind the running chunk is too old."""
NEW_CHUNK: int
"""The first tick of a chunk."""

class EngineUnavailable(RuntimeError):
    """The machine lacks what an engine needs. The graph is not to blame."""

class _Histogram(TypedDict):
    count: int
    sum_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    counts: list[int]
    edges_ms: list[float]

class _Violations(TypedDict):
    non_finite: int
    position: int
    velocity: int
    stale: int

class _Stats(TypedDict):
    ticks: int
    deadline_misses: int
    held_ticks: int
    chunks: int
    violations: _Violations
    histograms: dict[str, _Histogram]

class Policy:
    """An observation and noise in, a chunk of actions out."""

    @property
    def inputs(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Name -> (numpy type name, shape) of what `infer` takes."""

    @property
    def action_shape(self) -> tuple[int, int]:
        """(H, N)."""

    def infer(
        self, inputs: Mapping[str, NDArray[Any]], noise: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Returns (H, N) float32 normalised actions. Other threads run meanwhile.

        Args:
            inputs: exactly the tensors of `inputs`; only read.
            noise: float32 (H, N) or (1, H, N); only read.
        """

    def histograms(self) -> dict[str, _Histogram]:
        """Times of the stages copy_in, prefix, step, denoise and inference since construction.

        `step` is each call of the denoise graph, `denoise` the loop around all of an inference's:
        the sum of the one over the sum of the other says what the loop itself costs.
        """

class FlowPolicy(Policy):
    """A bundle's two graphs and the loop of Euler steps between them.

    All memory of an inference is allocated here; the prefix graph writes its keys and values where
    the denoise graph reads them, on an accelerator without passing through the host. May be
    shared: inferences run one after the other.

    Args:
        prefix_path: ONNX file, weights beside it.
        denoise_path: likewise.
        engine: what runs the graphs. All of a graph runs there; nothing is left to another one.
        library: path of the engine's library; see `flux_runtime.engines.onnxruntime_library` and
            `flux_runtime.engines.openvino_library`.
        num_inference_steps: Euler steps; the denoise graph's dt is -1 / this.
        num_threads: of the processor, for each graph.
        options: of ONNX Runtime's provider, or properties of OpenVINO's CPU device.

    Raises:
        ValueError: the graphs do not fit each other; the message names the tensor.
        EngineUnavailable: the library cannot be loaded, or this machine lacks what it needs.
        RuntimeError: the engine refuses a graph.
    """

    def __init__(
        self,
        prefix_path: str,
        denoise_path: str,
        *,
        engine: Literal[
            "onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "openvino"
        ] = "onnxruntime",
        library: str,
        num_inference_steps: int,
        num_threads: int = 1,
        options: Mapping[str, str] = ...,
    ) -> None: ...

class CapturedPolicy(Policy):
    """A bundle's whole inference as one CUDA graph; see `flux_runtime.engines.tensorrt`.

    Its histograms count `copy_in` and `inference` only.

    Args:
        driver: the driver's library.
        context: a handle, as `stream` and `graph` are; the graph can be launched.
        stream: where it is launched.
        graph: reads the inputs and the noise, and writes the actions, in page-locked memory.
        inputs: name -> (numpy type name, shape, address).
        noise: address of float32 `action_shape`.
        actions: likewise.
        action_shape: (H, A).
        owner: of everything; kept alive.

    Raises:
        EngineUnavailable: the driver cannot be loaded.
        ValueError: a handle or an address is null.
    """

    def __init__(
        self,
        *,
        driver: str,
        context: int,
        stream: int,
        graph: int,
        inputs: Mapping[str, tuple[str, tuple[int, ...], int]],
        noise: int,
        actions: int,
        action_shape: tuple[int, ...],
        owner: object,
    ) -> None: ...

class SafetyLimits:
    """Limits per joint, each (A,): joint units, and joint units per second.

    Raises:
        ValueError: unless all are finite, lower < upper and max_velocity > 0.
    """

    def __init__(self, *, lower: ArrayLike, upper: ArrayLike, max_velocity: ArrayLike) -> None: ...

class ActionDecoder:
    """normalised * scale + offset + relative_mask * observed state, each (A,), in float32."""

    def __init__(
        self, *, scale: ArrayLike, offset: ArrayLike, relative_mask: ArrayLike
    ) -> None: ...

class ControlLoop:
    """Fixed-rate ticks, chunks that come and go, and a safety filter behind them.

    One thread at a time may use it. Per control step: `submit` if `needs_observation()`, then
    `wait_for_tick()`, then `tick()`, then send the command.

    Args:
        policy: None if only `submit_chunk` gives chunks.
        decoder: from the policy's actions to robot units.
        limits: of the same action_dim.
        control_hz: ticks per second.
        execution_horizon: ticks that a chunk is executed before the next takes over.
        mode: 'sync': `submit` infers while the robot holds. 'async': on a thread of its own.
        clock: 'simulated': ticks do not wait, and a chunk takes over exactly `inference_delay`
            ticks after its observation. 'monotonic': ticks on an absolute grid, chunks as they
            come.
        inference_delay: control steps, at most execution_horizon and H - execution_horizon; 0
            unless mode is 'async' and clock 'simulated'.
        stale_after_s: how much older than its own duration a chunk's observation may be.

    Raises:
        ValueError: an argument is out of its range; the message names the numbers.
    """

    def __init__(
        self,
        *,
        policy: Policy | None,
        decoder: ActionDecoder,
        limits: SafetyLimits,
        control_hz: float,
        execution_horizon: int,
        mode: Literal["sync", "async"],
        clock: Literal["simulated", "monotonic"],
        inference_delay: int = 0,
        stale_after_s: float = 1.0,
    ) -> None: ...
    def start(self, command: NDArray[np.float32]) -> None:
        """Holds `command`, (A,) finite, until the first chunk. Called once."""

    def needs_observation(self) -> bool:
        """Whether a chunk is wanted and none is on its way.

        Raises:
            RuntimeError: an inference has failed on its thread; raised once. Ticks hold from the
                failure until the next chunk.
        """

    def submit(
        self,
        inputs: Mapping[str, NDArray[Any]],
        state: NDArray[np.float32],
        noise: NDArray[np.float32],
    ) -> None:
        """Gives the observation of the coming tick: the policy's inputs and noise, and state (A,).

        Everything is copied. Other threads run meanwhile.
        """

    def submit_chunk(self, actions: NDArray[np.float32]) -> None:
        """Schedules (rows, A) actions in robot units from the coming tick on.

        There are at least execution_horizon rows.
        """

    def wait_for_tick(self) -> float:
        """Waits for the next tick of the grid; returns how late it begins, in seconds.

        Ticks that passed meanwhile are skipped. With the simulated clock this waits for nothing
        but an inference whose chunk is due.
        """

    def tick(self) -> tuple[NDArray[np.float32], int]:
        """Returns the next command, (A,), always finite and within the limits, and status flags."""

    def stats(self) -> _Stats:
        """Counts and histograms since construction.

        Violations are ticks in which the policy asked for too much. Histograms are `tick` (the C++
        work of a tick), `jitter` (how late ticks began) and the policy's stages for this loop.
        """

    def stop(self) -> None:
        """Waits for the inference in flight and ends its thread. Ticks hold from now on."""
