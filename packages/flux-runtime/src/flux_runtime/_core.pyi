"""The C++ core: flow-matching inference and the control loop.

Letters in shapes: H action_horizon, A the robot's action_dim, N the network's action_dim (at least
A, because a network that was trained on several robots is wider than most of them).

A wrong name, type or shape raises ValueError with the message `name: expected X, got Y`. A failing
engine or a call in the wrong order raises RuntimeError.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

HELD: int
"""No usable action: the robot brakes, then the command repeats."""
CLIPPED_POSITION: int
"""The action was outside the position limits, or the robot could not have stopped inside them."""
CLIPPED_VELOCITY: int
"""The action needed more than max_velocity."""
NON_FINITE: int
"""The action contained a NaN or an infinity."""
STALE: int
"""The observation behind the chunk is too old."""
NEW_CHUNK: int
"""The first tick of a chunk."""
CLIPPED_ACCELERATION: int
"""The action needed more than max_acceleration."""
CLIPPED_JERK: int
"""The action needed more than max_jerk."""

class EngineUnavailable(RuntimeError):
    """The machine lacks something that the engine needs. The graph is not at fault."""

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
    """Turns one observation and noise into one chunk of actions."""

    @property
    def inputs(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The inputs that `infer` takes: name -> (numpy type name, shape)."""

    @property
    def action_shape(self) -> tuple[int, int]:
        """(H, N)."""

    def infer(
        self, inputs: Mapping[str, NDArray[Any]], noise: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Returns (H, N) float32 normalised actions. Releases the GIL.

        Args:
            inputs: exactly the tensors of `inputs`; not modified.
            noise: float32 (H, N) or (1, H, N); not modified.
        """

    def histograms(self) -> dict[str, _Histogram]:
        """Returns the times of copy_in, prefix, step, denoise and inference since construction.

        `step` is one call of the denoise graph and `denoise` is the loop over all of them, so that
        the ratio of their sums shows what the loop itself costs.
        """

class FlowPolicy(Policy):
    """A bundle's two graphs: one prefix pass, then the Euler steps of the denoise graph.

    All memory for an inference is allocated by the constructor. The prefix graph writes its keys
    and values where the denoise graph reads them; on an accelerator they never pass through the
    host. A policy may be shared between threads: its inferences are serialised.

    Args:
        prefix_path: ONNX file, with its weights in the same folder.
        denoise_path: likewise.
        engine: what runs the graphs. A graph that would run partly on another engine is refused.
        library: path of the engine's library; see `flux_runtime.engines.onnxruntime_library` and
            `flux_runtime.engines.openvino_library`.
        num_inference_steps: Euler steps; the denoise graph's dt is -1 / num_inference_steps.
        num_threads: CPU threads for each graph.
        options: options of ONNX Runtime's provider, or properties of OpenVINO's CPU device.
        cuda_options: options of the CUDA provider, which runs what TensorRT's provider declines;
            only for `onnxruntime-tensorrt`.

    Raises:
        ValueError: the graphs do not fit together; the message names the tensor.
        EngineUnavailable: the library cannot be loaded, or this machine lacks what it needs.
        RuntimeError: the engine rejects a graph.
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
        cuda_options: Mapping[str, str] = ...,
    ) -> None: ...

class CapturedPolicy(Policy):
    """A bundle's whole inference as one CUDA graph; see `flux_runtime.engines.tensorrt`.

    Only its histograms `copy_in` and `inference` are filled.

    Args:
        driver: the driver's library.
        context: a handle, like `stream` and `graph`.
        stream: where the graph is launched.
        graph: launchable; reads the inputs and the noise from page-locked host memory, and writes
            the actions there.
        inputs: name -> (numpy type name, shape, address).
        noise: address of a float32 array of `action_shape`.
        actions: likewise.
        action_shape: (H, N).
        owner: owns all of the above; kept alive with the policy.

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
    """Limits per joint, each (A,), in joint units and joint units per second, squared and cubed.

    Without max_acceleration and max_jerk, which belong together, both are unlimited.

    Raises:
        ValueError: unless the lengths agree, all numbers are finite, lower < upper, and the other
            limits are above 0.
    """

    def __init__(
        self,
        *,
        lower: ArrayLike,
        upper: ArrayLike,
        max_velocity: ArrayLike,
        max_acceleration: ArrayLike = ...,
        max_jerk: ArrayLike = ...,
    ) -> None: ...

class SafetyFilter:
    """Keeps every command within the limits; see cpp/include/flux/safety_filter.hpp.

    `dt_s` is the time since the last command, above 0. More than a nominal period counts as one,
    and one is the default.
    """

    def __init__(self, *, limits: SafetyLimits, control_hz: float) -> None: ...
    def reset(self, command: NDArray[np.float32]) -> None:
        """Makes `command`, (A,) and finite, the last command of a robot at rest."""

    def apply(
        self,
        action: NDArray[np.float32],
        preview: NDArray[np.float32] | None = None,
        dt_s: float | None = None,
    ) -> int:
        """Moves the command to `action`, (A,), as far as the limits allow; returns tick flags.

        Args:
            preview: the rows that follow `action`, (rows, A); the first two are used.
        """

    def brake(self, dt_s: float | None = None) -> None:
        """One step towards rest as fast as the limits allow; at rest, repeats the command."""

    def return_to_limits(self, dt_s: float | None = None) -> None:
        """One step of a slow motion of the joints outside their position limits to those limits."""

    @property
    def command(self) -> NDArray[np.float32]:
        """The last command, (A,); a copy."""

    def is_at_rest(self) -> bool: ...
    def is_within_limits(self) -> bool:
        """Whether the last command is within the position limits."""

    def rest_time_bound_s(self, max_dt_s: float | None = None) -> float:
        """How long braking takes at most, if ticks are no more than `max_dt_s` apart."""

class ActionDecoder:
    """normalised * scale + offset + relative_mask * observed state, each (A,), in float32."""

    def __init__(
        self, *, scale: ArrayLike, offset: ArrayLike, relative_mask: ArrayLike
    ) -> None: ...

class ControlLoop:
    """Fixed-rate ticks that send the current chunk's actions through a safety filter.

    Only one thread may use it at a time. Per control step: `submit` if `needs_observation()`, then
    `wait_for_tick()`, then `tick()`, then send the command.

    Args:
        policy: may be None; chunks then come only from `submit_chunk`.
        decoder: converts the policy's actions to robot units.
        limits: limits for the same action_dim.
        control_hz: ticks per second.
        execution_horizon: ticks for which a chunk is executed before the next one takes over.
        mode: 'sync': `submit` runs the inference while the robot holds. 'async': `submit` wakes the
            inference thread while the running chunk continues.
        clock: 'simulated': ticks do not wait, and a chunk takes over exactly `inference_delay`
            ticks after its observation. 'monotonic': ticks lie on an absolute grid, and a chunk
            takes over as soon as it is ready.
        inference_delay: control steps, at most execution_horizon and at most
            H - execution_horizon; 0 unless mode is 'async' and clock is 'simulated'.
        stale_after_s: a chunk is stale once its observation is older than the chunk's duration plus
            this time.

    Raises:
        ValueError: an argument is out of range; the message names the values.
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
        """Holds `command`, (A,) and finite, until the first chunk. Must be called exactly once."""

    def needs_observation(self) -> bool:
        """Whether a chunk is needed and none is pending.

        Raises:
            RuntimeError: an inference has failed on its thread; raised once per failure. Ticks hold
                from the failure until the next chunk.
        """

    def submit(
        self,
        inputs: Mapping[str, NDArray[Any]],
        state: NDArray[np.float32],
        noise: NDArray[np.float32],
    ) -> None:
        """Submits the observation for the coming tick: the policy's inputs, state (A,) and noise.

        Everything is copied. Releases the GIL.
        """

    def submit_chunk(self, actions: NDArray[np.float32]) -> None:
        """Schedules (rows, A) actions, in robot units, from the coming tick on.

        Raises:
            ValueError: unless rows >= execution_horizon.
        """

    def wait_for_tick(self) -> float:
        """Waits for the next tick and returns how late it starts, in seconds.

        Ticks that passed while the loop was late are skipped. With the simulated clock it waits
        only for a chunk that is due at that tick.
        """

    def tick(self) -> tuple[NDArray[np.float32], int]:
        """Returns the next command, (A,), always finite and within the limits, and status flags."""

    def stats(self) -> _Stats:
        """Returns counts and histograms since construction.

        Violations are ticks with an unusable action or one outside the limits. The histograms are
        `tick` (time spent in `tick`), `jitter` (how late ticks started) and the stages of this
        loop's inferences.
        """

    def stop(self) -> None:
        """Waits for the inference in flight and stops its thread. All later ticks hold."""

class _LinkStatus(TypedDict):
    phase: Literal["connecting", "ready", "stopped", "failed", "closed", "unknown"]
    acknowledged: int
    session: int
    heartbeat_ns: int
    dropped_old: int
    refused_steps: int
    progress: int
    is_alive: bool

class _SharedStatus(_LinkStatus):
    refused_not_finite: int
    refused_sessions: int
    overwritten: int

class RobotLink:
    """What the control thread sees of a robot. Times are nanoseconds on the monotonic clock.

    The methods are the control thread's: call them only while no control loop uses the link.
    """

    @property
    def action_dim(self) -> int: ...
    @property
    def state_dim(self) -> int: ...
    @property
    def num_cameras(self) -> int: ...
    def read_state(self) -> tuple[NDArray[np.float32], int, int]:
        """Returns the newest state, (state_dim,), when it was captured, and its number.

        The number counts from 1; the state is zeros, and the others are 0, if there is none yet.
        """

    def frame_captured_ns(self, camera: int) -> int:
        """Returns when a camera's newest frame was captured; 0 if there is none yet."""

    def status(self) -> _LinkStatus:
        """Returns what the driver says about itself. May be called from any thread.

        `acknowledged` is the newest sequence of `session` that the robot has accepted; `session` is
        the one that commands are accepted of, 0 if none.
        """

    def send(
        self,
        command: NDArray[np.float32],
        *,
        sequence: int,
        session: int,
        tick_ns: int,
        observed_ns: int,
        flags: int = 0,
    ) -> int:
        """Sends a command, (action_dim,), and returns when it left."""

    def beat(self) -> None:
        """Gives a sign of life."""

    def announce(
        self,
        phase: Literal["idle", "running", "stopped", "closed"],
        *,
        session: int,
        category: int = 2,
    ) -> None:
        """Tells the driver what this side is doing; also a sign of life.

        Commands of a session are accepted once 'running' has been announced, and until the driver
        hears nothing for more than three control periods.
        """

class SharedMemoryLink(RobotLink):
    """The policy's end of the memory that it shares with a driver's process.

    Args:
        action_dim: values of a command.
        state_dim: values of a state; `action_dim` unless `max_step` is empty.
        cameras: (height, width) in pixels of each camera.
        control_hz: commands per second.
        max_step: (action_dim,): the largest nominal step per joint, max_velocity / control_hz. The
            driver refuses three times as much. Empty for a robot that is commanded by differences.

    Raises:
        ValueError: an argument is out of range; the message names it.
    """

    def __init__(
        self,
        *,
        action_dim: int,
        state_dim: int,
        cameras: Sequence[tuple[int, int]],
        control_hz: float,
        max_step: Sequence[float],
    ) -> None: ...
    def fd(self) -> int:
        """Returns the memory's descriptor, for `pass_fds`; closed with this object."""

    def status(self) -> _SharedStatus: ...
    def observe(
        self, cameras: Sequence[int]
    ) -> tuple[NDArray[np.float32], int, dict[int, tuple[NDArray[np.uint8], int]]]:
        """Returns the newest state, when it was captured, and {camera: (image, captured_ns)}.

        Called by one thread at a time, also while a control loop uses the link. Images are copies,
        (height, width, 3). A camera without a frame is left out; the state's time is 0 if there is
        none yet.
        """

    def set_dead(self) -> None:
        """Makes `is_alive` false for good: the driver's process has ended."""
