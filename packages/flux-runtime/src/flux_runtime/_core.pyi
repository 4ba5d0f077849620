"""The C++ core: flow-matching inference and the control loop.

Letters in shapes: H action_horizon, A the robot's action_dim, N the network's action_dim (at least
A, because a network that was trained on several robots is wider than most of them).

A wrong name, type or shape raises ValueError with the message `name: expected X, got Y`. A failing
engine or a call in the wrong order raises RuntimeError.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self, TypedDict

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

CLIPPED_ACCELERATION: int
"""The action needed more than max_acceleration."""
CLIPPED_JERK: int
"""The action needed more than max_jerk."""
GAP: int
"""More than three periods after the last command."""
HOLDING: int
"""Held because of a fault that may end."""
STOPPING: int
"""Held on the way to a stop or to the end of a session."""
RETURNING: int
"""A step of the slow motion back to the limits."""

FAULTS: tuple[tuple[str, str, str], ...]
"""Every fault: its name, its reaction and what it is.

The reaction is 'note', 'clamp', 'refuse_chunk', 'hold', 'stop' or 'refuse_start'.
"""
PHASES: tuple[str, ...]
"""The names of the loop's phases; a tick record holds the place of one in this tuple."""

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

class _Rtc(TypedDict):
    delays: dict[int, int]
    late: int

class _Stats(TypedDict):
    ticks: int
    deadline_misses: int
    held_ticks: int
    chunks: int
    violations: _Violations
    histograms: dict[str, _Histogram]
    rtc: _Rtc | None

class ContinuationSettings:
    """How a chunk continues the running one: `flux_core.rtc.RTCConfig` for the core.

    Args:
        method: 'prefix': the first rows are known, for a policy that was trained with such
            prefixes. 'guidance': the flow is pulled towards the known rows.
        prefix_len: a fixed delay in rows; None: measured.
        decay_end: the row from which guidance has no weight; None: twice the delay.
        schedule: how the weight of guidance falls between them.
        max_guidance_weight: largest strength of guidance.
        use_vjp: must be False, because an exported graph has no Jacobian.
        delays: prefix lengths that the policy was trained with, ascending; guidance takes any.

    Raises:
        ValueError: a name is unknown, or `use_vjp` is True. Whether the numbers fit a policy is
            checked together with it.
    """

    def __init__(
        self,
        *,
        method: Literal["prefix", "guidance"] = "prefix",
        prefix_len: int | None = None,
        decay_end: int | None = None,
        schedule: Literal["exp", "linear", "ones", "zeros"] = "exp",
        max_guidance_weight: float = 5.0,
        use_vjp: bool = False,
        delays: Sequence[int] = (0,),
    ) -> None: ...
    def usable_delay(self, rows: int, *, execution_horizon: int, action_horizon: int) -> int | None:
        """Returns the smallest delay d >= `rows` that the method can use, with
        d <= execution_horizon <= action_horizon - d; None if there is none."""

    def largest_usable_delay(self, *, execution_horizon: int, action_horizon: int) -> int | None:
        """Returns the largest such delay; None if there is none."""

class Policy:
    """Turns one observation and noise into one chunk of actions."""

    @property
    def inputs(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The inputs that `infer` takes: name -> (numpy type name, shape)."""

    @property
    def action_shape(self) -> tuple[int, int]:
        """(H, N)."""

    @property
    def can_continue(self) -> bool:
        """Whether a chunk can continue the running one."""

    @property
    def can_guide(self) -> bool:
        """Whether it can also do so with method 'guidance', which takes access to every Euler
        step."""

    def infer(
        self,
        inputs: Mapping[str, NDArray[Any]],
        noise: NDArray[np.float32],
        previous: NDArray[np.float32] | None = None,
        prefix_len: int = 0,
        continuation: ContinuationSettings | None = None,
    ) -> NDArray[np.float32]:
        """Returns (H, N) float32 normalised actions. Releases the GIL.

        Args:
            inputs: exactly the tensors of `inputs`; not modified.
            noise: float32 (H, N) or (1, H, N); not modified.
            previous: float32 (K, N), normalised, with K <= H: what is left of the running chunk,
                which the new one continues; not modified.
            prefix_len: how many of these rows will have been executed. With 0 the result is
                bit-identical to that without `previous`.
            continuation: how; given together with `previous`.

        Raises:
            ValueError: the rows do not fit the policy, or it cannot continue chunks.
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
    """A bundle's whole inference as one CUDA graph; see `flux_runtime.engines.tensorrt` and
    `CudaPlayer`, which makes one with several graphs.

    Only its histograms `copy_in` and `inference` are filled. A launched inference always runs to
    its end; if it is cancelled, the caller discards its result.

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

CudaKernel = tuple[str, str, bytes, int, int, Sequence[tuple[int, int]]]
"""Name for messages, symbol, cubin, threads per program, dynamic shared memory in bytes, and offset
and size of each parameter in the cubin."""
CudaLaunch = tuple[str, int, tuple[int, int, int], Sequence[tuple[int, int] | int | float]]
"""Stage, number of the kernel, grid, and arguments: (number of a buffer, offset in bytes), an int32
or a float32."""

class CudaPlayer:
    """A launch plan on the first NVIDIA card; see `flux_runtime.cuda.player`.

    Loads the kernels and allocates all memory, and releases everything if that fails. Work memory
    is zeroed once. One thread at a time may use it.

    Args:
        library: the driver's.
        architecture: of the cubins, such as 'sm_90a'.
        kernels: compiled by Triton, each with two parameters for scratch memory, which get 0.
        buffers: name, bytes and role: 'input', 'constant', 'work', or 'output', of which there is
            one. Inputs are laid out in their order, in one block.

    Raises:
        EngineUnavailable: there is no driver, the cubins are damaged or for another card, or there
            is too little memory or shared memory.
        ValueError: the plan contradicts itself or its cubins; the message names the place.
        RuntimeError: the driver refuses a call; the message names it.
    """

    def __init__(
        self,
        *,
        library: str,
        architecture: str,
        kernels: Sequence[CudaKernel],
        buffers: Sequence[tuple[str, int, str]],
    ) -> None: ...
    @property
    def card(self) -> str:
        """Its name."""

    @property
    def num_device_bytes(self) -> int:
        """How much of its memory is used."""

    def input_offset(self, name: str) -> int:
        """Returns where an input begins in the block of all inputs."""

    def upload(self, name: str, content: ArrayLike) -> None:
        """Copies a whole constant to the card, from a contiguous array. Releases the GIL.

        Raises:
            ValueError: there is no such constant, or it has another size.
            RuntimeError: the driver refuses a call.
        """

    def capture(
        self,
        num_cameras: int,
        num_tokens: int,
        launches: Sequence[CudaLaunch],
        *,
        num_input_bytes: int,
    ) -> None:
        """Runs a variant once, and captures it as a graph, with a copy of the first
        `num_input_bytes` of the input block before it and of the output after it. Releases the GIL.

        Raises:
            ValueError: a launch does not fit its cubin, or a constant was not uploaded.
            RuntimeError: a launch fails; the message names it.
        """

    def policy(
        self,
        inputs: Mapping[str, tuple[str, Sequence[int]]],
        *,
        action_shape: tuple[int, int],
        vocabulary_size: int,
    ) -> CapturedPolicy:
        """Returns a policy of all captured variants, which keeps the card's memory alive.

        It runs the graph for the cameras that are present (`image_masks`) and for the smallest
        prompt that holds `lang_tokens`; there must be one, and padding must follow the prompt. It
        continues chunks with method 'prefix'.

        Args:
            inputs: name -> (numpy type name, shape): images (1, C, h, w, 3), image_masks (1, C),
                lang_tokens and lang_masks (1, L), and state (1, S), which not every plan reads.
            action_shape: (H, N).
            vocabulary_size: a token's number is below it.

        Raises:
            ValueError: the plan's inputs have other sizes.
        """

class CallbackPolicy(Policy):
    """A function that makes chunks. Only its histogram `inference` is filled.

    Args:
        call: called on any thread as `call(inputs, noise, previous, prefix_len, cancelled)` with
            copies of what `infer` was given. `previous` is None and `prefix_len` 0 if there is
            nothing to continue; `cancelled()` is whether nobody wants the chunk any more. Returns
            float32 (H, N). What it raises ends the inference: an Exception as its text in one line,
            anything else as it is.
        inputs: name -> (numpy type name, shape).
        action_shape: (H, N).
        can_continue: whether a chunk can continue the running one.

    Raises:
        ValueError: a shape has an empty dimension, or `call` is no function.
    """

    def __init__(
        self,
        call: Callable[
            [
                dict[str, NDArray[Any]],
                NDArray[np.float32],
                NDArray[np.float32] | None,
                int,
                Callable[[], bool],
            ],
            NDArray[np.float32],
        ],
        *,
        inputs: Mapping[str, tuple[str, Sequence[int]]],
        action_shape: tuple[int, int],
        can_continue: bool,
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
    """normalised * scale + offset + relative_mask * observed state, each (A,), in float32.

    Where `binary_mask` is true, an action is 1 if the normalised one is above 0.5, else 0; such
    actions are never averaged or interpolated. None: none is binary.
    """

    def __init__(
        self,
        *,
        scale: ArrayLike,
        offset: ArrayLike,
        relative_mask: ArrayLike,
        binary_mask: ArrayLike | None = None,
    ) -> None: ...
    def decode(
        self, normalised: NDArray[np.float32], state: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Returns (rows, A) actions in robot units.

        Args:
            normalised: float32 (rows, N) with N >= A; further columns are padding.
            state: float32 (A,), the observed state in robot units.
        """

    def encode(
        self, actions: NDArray[np.float32], network_dim: int, state: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Returns (rows, network_dim) normalised actions: the inverse of `decode`.

        Padding, and a dimension whose scale is 0, become 0.

        Args:
            actions: float32 (rows, A), in robot units.
            network_dim: N.
            state: float32 (A,), which relative actions become relative to.
        """

class ControlLoop:
    """Ticks of simulated time that send the current chunk's actions through a safety filter.

    Each `tick()` is one control period after the last one, however long it really takes. Only one
    thread may use the loop at a time. Per control step: `submit` if `needs_observation()`, then
    `tick()`, then send the command. `RealtimeLoop` is the loop of real time.

    Args:
        policy: may be None; chunks then come only from `submit_chunk`.
        decoder: converts the policy's actions to robot units.
        limits: limits for the same action_dim.
        control_hz: ticks per second.
        execution_horizon: rows of a chunk that are executed before the next one takes over.
        mode: 'sync': `submit` runs the inference while the robot holds. In the other modes `submit`
            wakes the inference thread while the running chunk continues. 'async': it ends where the
            next one begins. 'ensemble': chunks are asked for as soon as the last one has come, and
            their predictions of the same moment averaged. 'rtc': the next chunk continues it.
        inference_delay: control steps from an observation until its chunk takes over. With d the
            rows executed meanwhile, 'async' needs d <= execution_horizon <= H - d, 'ensemble'
            2 d <= H, and 'rtc' a usable delay of at least d.
        stale_after_s: a chunk is stale once its observation is older than the chunk's duration plus
            this time.
        speed: rows executed per tick, above 0 and at most 1.
        continuation: how chunks continue each other in mode 'rtc'.
        closes_below, closed_command: as for `RealtimeSettings`.

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
        mode: Literal["sync", "async", "ensemble", "rtc"],
        inference_delay: int = 0,
        stale_after_s: float = 1.0,
        speed: float = 1.0,
        continuation: ContinuationSettings = ...,
        closes_below: Sequence[float] = (),
        closed_command: Sequence[float] = (),
    ) -> None: ...
    def start(self, command: NDArray[np.float32]) -> None:
        """Holds `command`, (A,) and finite, until the first chunk. Must be called exactly once."""

    def needs_observation(self) -> bool:
        """Whether a chunk is needed and none is pending. Releases the GIL.

        In the modes 'ensemble' and 'rtc', waits for a chunk that is due at the coming tick.

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

    def tick(self) -> tuple[NDArray[np.float32], int]:
        """Returns the next command, (A,), always finite and within the limits, and status flags.

        Waits for the inference whose chunk is due, without the GIL.
        """

    def asked(self) -> NDArray[np.float32]:
        """Returns what the last tick asked of the safety filter, (A,); NaN if it held."""

    def stats(self) -> _Stats:
        """Returns counts and histograms since construction.

        `rtc` is None except in mode 'rtc': how many chunks were given how many rows of the running
        one, and how many came later than those were executed. Violations are ticks with an unusable
        action or one outside the limits. The histograms are `tick` (time spent in `tick`), `jitter`
        (how late ticks started: 0) and the stages of this loop's inferences.
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

class ChunkPlayer:
    """Where in its chunks a robot is; between two rows, on a natural cubic spline.

    Args:
        action_dim: A.
        max_rows: of a chunk.
    """

    def __init__(self, *, action_dim: int, max_rows: int) -> None: ...
    def begin(self, rows: NDArray[np.float32], first_row: int) -> None:
        """Replaces the running chunk.

        Args:
            rows: (H, A).
            first_row: the number of row 0: `next_row` when the chunk's observation was taken.
        """

    def look(self, rate: float) -> NDArray[np.float32]:
        """Returns what is executed now, (A,); `rate` is in rows per tick, 0 to 1."""

    def advance(self, rate: float) -> None:
        """Moves on by a tick."""

    @property
    def has_row(self) -> bool:
        """Whether there is anything to execute."""

    @property
    def next_row(self) -> int:
        """The first row that has not been executed, counted across chunks."""

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

class LoopbackLink(RobotLink):
    """A robot inside this process that follows every command at once.

    Its states and frames are always new: for measurements of the control thread itself.

    Args:
        action_dim: A.
        state: the first state, (state_dim,). With state_dim of A, the state becomes each command.
        num_cameras: cameras that only have capture times.
    """

    def __init__(
        self, *, action_dim: int, state: Sequence[float], num_cameras: int = 0
    ) -> None: ...
    def set_state(self, state: NDArray[np.float32]) -> None:
        """Moves the robot by hand to (state_dim,) float32."""

    def freeze(self, time_ns: int) -> None:
        """Makes state, frames and signs of life as old as a monotonic time; 0 for new ones."""

    @property
    def num_commands(self) -> int:
        """Commands received so far."""

    @property
    def phase(self) -> int:
        """What the loop has announced: 0 idle, 1 running, 2 stopped, 3 closed."""

    @property
    def category(self) -> int:
        """The stop category that the loop has announced."""

class StopSignals:
    """Remembers SIGINT, SIGTERM and SIGHUP while it is entered; nothing is interrupted.

    Python's own handlers do not run meanwhile, and are restored on leaving. Only one can be entered
    at a time.
    """

    def __init__(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...
    @property
    def signal(self) -> int:
        """The number of the first signal since entering; 0 if there was none."""

    @property
    def count(self) -> int:
        """How many signals have arrived since entering."""

class RealtimeSettings:
    """How a robot is controlled in real time. Values per joint are (A,), or empty.

    Args:
        control_hz: rows of a chunk per second, at full speed.
        execution_horizon: rows of a chunk that are executed before the next one takes over.
        mode: 'sync': the next chunk is asked for once the robot is at rest after the horizon's last
            row. 'async': early enough to take over without a pause. 'ensemble': as soon as the last
            one has come; predictions of the same row are averaged. 'rtc': so early that the rows
            which are executed meanwhile are the beginning of the next chunk.
        hold_for_s: for how long the cause of a hold may last; after that it is a stop.
        chunk_hold_for_s: for how long a hold may last that the next chunk ends, at least
            hold_for_s, during which failures are not counted against max_retries; 0 for hold_for_s,
            and for max_retries.
        stale_after_s: a chunk is used until its observation is older than the chunk's duration plus
            this time.
        max_state_age_s: of the newest state, from its capture time.
        max_frame_age_s: of each camera's newest frame.
        max_following_error: between the last command and the measured position; empty: not watched.
        max_border_jump: between the last command and the first row of a chunk; empty: not watched.
        start_tolerance: outside the position limits; empty: 0.05.
        rest_command: the command that requests no motion, of a robot commanded by differences.
        cameras: indices of the link's cameras that are watched.
        inference_deadline_s: from a request to its chunk; 0 for hold_for_s.
        max_retries: failures in a row after which the next one is a stop.
        stop_category: of a stop that a fault or a signal causes.
        priority: of SCHED_FIFO, 1 to 99; 0 keeps the ordinary scheduling.
        cpu: the only CPU for the control thread; -1 for any.
        lock_memory: keep what a tick touches from being paged out.
        record_s: for how long ticks are kept until they are drained.
        command_hz: ticks per second, at least control_hz; 0 for control_hz. Commands between two
            rows lie on a natural cubic spline through the chunk.
        speed: share of control_hz at which chunks are executed, above 0 and at most 1; the robot's
            own speed scaling multiplies it. 1 for a robot commanded by differences.
        continuation: how chunks continue each other in mode 'rtc'.
        first_latency_s: from a request to its chunk, until that is measured, in mode 'rtc'.
        slow_start_s: a session that begins slowly executes chunks at slow_start_speed until rows
            have been executed for this time; over the next second it becomes as fast as others.
        slow_start_speed: a share of the speed, above 0 and at most 1.
        closes_below: a command below this becomes `closed_command`, between the chunk and the
            safety filter; NaN for a joint without a threshold. max_border_jump is not watched for
            a joint with one.
        closed_command: finite for every joint with a threshold.

    `RealtimeLoop` checks the values.
    """

    def __init__(
        self,
        *,
        control_hz: float,
        execution_horizon: int,
        mode: Literal["sync", "async", "ensemble", "rtc"],
        hold_for_s: float = 2.0,
        stale_after_s: float = 1.0,
        max_state_age_s: float = 0.1,
        max_frame_age_s: float = 0.5,
        max_following_error: Sequence[float] = (),
        max_border_jump: Sequence[float] = (),
        start_tolerance: Sequence[float] = (),
        rest_command: Sequence[float] = (),
        cameras: Sequence[int] = (),
        inference_deadline_s: float = 0.0,
        max_retries: int = 5,
        stop_category: int = 2,
        priority: int = 0,
        cpu: int = -1,
        lock_memory: bool = True,
        record_s: float = 60.0,
        command_hz: float = 0.0,
        speed: float = 1.0,
        continuation: ContinuationSettings = ...,
        first_latency_s: float = 0.0,
        slow_start_s: float = 0.0,
        slow_start_speed: float = 1.0,
        closes_below: Sequence[float] = (),
        closed_command: Sequence[float] = (),
        chunk_hold_for_s: float = 0.0,
    ) -> None: ...
    @property
    def inference_deadline_s(self) -> float:
        """The deadline in force."""

    @property
    def period_ns(self) -> int:
        """One period of the commands' grid."""

class InferenceRequest:
    """A chunk that the loop waits for."""

    @property
    def index(self) -> int:
        """Of the request within its session, from 0."""

    @property
    def session(self) -> int:
        """The session that asks."""

    def as_data(self) -> dict[str, int]:
        """Returns all fields: what decides which rows of its chunk are executed."""

class LoopStatus(TypedDict):
    """`fault`, `index`, `value` and `limit` say what stopped the loop; '' and -1 if nothing did."""

    phase: Literal["idle", "returning", "running", "holding", "stopping", "finishing", "stopped"]
    session: int
    fault: str
    held_by: str
    index: int
    value: float
    limit: float
    category: int
    reason: str
    is_at_rest: bool
    ticks: int

class LoopEvent(TypedDict):
    """A fault that began or ended, or ('note') something that took no time."""

    time_ns: int
    session: int
    tick: int
    name: str
    what: Literal["begin", "end", "note"]
    index: int
    value: float
    limit: float

class _Dropped(TypedDict):
    ticks: int
    events: int

class _RtcStats(TypedDict):
    delays: dict[int, int]  # known rows -> chunks that began with so many
    late: int  # chunks that came after more rows than they knew of

class RealtimeStats(TypedDict):
    ticks: int
    deadline_misses: int
    held_ticks: int
    chunks: int
    violations: dict[str, int]
    faults: dict[str, int]
    dropped: _Dropped
    histograms: dict[str, _Histogram]
    rtc: _RtcStats | None  # in mode 'rtc'

class _Granted(TypedDict):
    asked: int  # 0 for nothing; a CPU has a number, -1 for any
    got: int
    error: str  # why `got` is not `asked`

class _Scheduling(TypedDict):
    priority: _Granted
    cpu: _Granted
    locked_bytes: _Granted

class RealtimeLoop:
    """The control thread: at every time on an absolute grid it sends one command.

    The thread starts with the object and needs neither the GIL nor the heap. Per session: `start`;
    on the inference thread `wait_for_request`, observe, `infer`; then `finish` or `stop`, and
    `wait_until_ended`.

    Args:
        link: the robot's driver.
        policy: may be None; chunks then come only from `submit_chunk`.
        decoder: converts the policy's actions to robot units.
        limits: in force for every command.
        settings: of the loop.
        signals: an entered StopSignals; its first signal stops the robot.

    Raises:
        ValueError: the arguments do not fit each other; the message names the values.
    """

    def __init__(
        self,
        *,
        link: RobotLink,
        policy: Policy | None,
        decoder: ActionDecoder,
        limits: SafetyLimits,
        settings: RealtimeSettings,
        signals: StopSignals | None = None,
    ) -> None: ...
    def start(
        self,
        session: int,
        confirmed_return: bool = False,
        max_ticks: int = 0,
        is_slow: bool = True,
        mode: str | None = None,
    ) -> None:
        """Starts a session from the measured state.

        Args:
            session: a number of at least 1 that was not used before.
            confirmed_return: whether a robot that stands outside its limits, within
                start_tolerance, is moved back slowly.
            max_ticks: the session finishes by itself after this many ticks of running and
                holding, and brakes then; 0 for never.
            is_slow: whether it begins as slowly as the settings say.
            mode: how its chunks follow each other, if not as the settings say; 'rtc' only then.

        Raises:
            ValueError: the robot cannot be started; the message says where, expected and got.
            RuntimeError: a session is running, or the loop is closed.
        """

    def session_start(self) -> dict[str, Any]:
        """Returns what the last session began with, as plain data for `SessionReplay`."""

    def wait_for_request(self, timeout_s: float) -> InferenceRequest | None:
        """Returns the next request for a chunk, or None if none comes in time.

        The observation must be taken afterwards. Only one thread may call it.
        """

    def infer(
        self,
        request: InferenceRequest,
        inputs: Mapping[str, NDArray[Any]],
        state: NDArray[np.float32],
        noise: NDArray[np.float32],
        observed_ns: int,
    ) -> bool:
        """Infers a chunk and hands it over; False if nobody wants it any more. Releases the GIL.

        Args:
            request: from `wait_for_request`.
            inputs: the policy's.
            state: (A,), in robot units.
            noise: (H, N) or (1, H, N).
            observed_ns: the oldest monotonic capture time of what the inputs were made from.

        Raises:
            ValueError: a wrong argument. The request is answered: this counts as a failure.
            RuntimeError: the engine fails; likewise.
        """

    def inferred_actions(self) -> NDArray[np.float32]:
        """Returns the chunk that `infer` made last, (H, A); for the inference thread only."""

    def submit_chunk(
        self, request: InferenceRequest, actions: NDArray[np.float32], observed_ns: int
    ) -> bool:
        """Hands over finished actions, (rows, A) in robot units; False if nobody wants them.

        Raises:
            ValueError: unless rows >= execution_horizon; this counts as a failure.
        """

    def report_failure(self, request: InferenceRequest, text: str) -> None:
        """Answers a request with a failure; does nothing if it is answered."""

    def finish(self) -> None:
        """Ends the session: the robot brakes to rest, and is not stopped."""

    def stop(self, category: int = 2, reason: str = "") -> None:
        """Stops the robot at the next tick. Only `start` leaves a stop."""

    def wait_until_ended(self, timeout_s: float) -> bool:
        """Returns whether the session has ended, in a stop or by `finish`."""

    def status(self) -> LoopStatus:
        """Returns what the loop is doing; `reason` is one line that says why it has stopped."""

    def drain_ticks(self) -> NDArray[np.void]:
        """Returns the ticks since the last call, as a structured array.

        Fields: tick_ns, sent_ns, deadline_ns, session, sequence, observed_ns, state_captured_ns,
        acknowledged, chunk, row, flags, phase, progress, frame_captured_ns (cameras,), state
        (state_dim,), command (A,), and those of `TickInputs` in flux/tick_record.hpp. observed_ns
        is 0 and row is -1 where no row was executed; sent_ns is 0 where no command was sent.
        """

    def drain_events(self) -> list[LoopEvent]:
        """Returns the events since the last call."""

    def stats(self) -> RealtimeStats:
        """Returns counts and histograms since `start`.

        `jitter` is the time from a tick's deadline until its command left, and `intervals` are the
        times between two commands. `dropped` counts records since construction that were not
        drained in time.
        """

    @property
    def scheduling(self) -> _Scheduling:
        """What was asked of the operating system, what was got, and why not."""

    def close(self) -> None:
        """Stops the robot if a session is running, and ends the thread.

        Takes no longer than braking: it does not wait for an inference.
        """

class SessionReplay:
    """Runs a recorded session of the control thread again, without threads and without a clock.

    Args:
        settings: those of the recorded loop, as the others.
        policy: may be None; chunks then come only from `submit_chunk`.
        decoder: converts the policy's actions to robot units.
        limits: in force for every command.
        state_dim: of the robot's states.
        num_cameras: of the link.

    Raises:
        ValueError: the arguments do not fit each other; the message names the values.
    """

    def __init__(
        self,
        *,
        settings: RealtimeSettings,
        policy: Policy | None,
        decoder: ActionDecoder,
        limits: SafetyLimits,
        state_dim: int,
        num_cameras: int,
    ) -> None: ...
    @property
    def tick_dtype(self) -> np.dtype[np.void]:
        """Of the ticks that `run` takes and `drain_ticks` returns."""

    def add_request(self, data: Mapping[str, int]) -> None:
        """Adds a recorded request (`InferenceRequest.as_data`) whose chunk is known."""

    def start(self, data: Mapping[str, Any]) -> None:
        """Starts with what `RealtimeLoop.session_start` returned.

        Raises:
            ValueError: the core refuses the start; the message says why.
        """

    def run(self, ticks: NDArray[np.void]) -> int:
        """Runs recorded ticks and returns how many; drain them before the next call.

        Fewer than all are run if `waits_for_chunk`, if the session has ended, or if more are not
        drained than the loop would keep.
        """

    @property
    def waits_for_chunk(self) -> bool:
        """Whether the next tick needs the chunk of the request `recorded_ticket`."""

    @property
    def recorded_ticket(self) -> int:
        """`ticket` of the recorded request whose chunk is due."""

    @property
    def has_ended(self) -> bool:
        """Whether the session has ended."""

    def infer(
        self,
        inputs: Mapping[str, NDArray[Any]],
        state: NDArray[np.float32],
        noise: NDArray[np.float32],
        observed_ns: int,
    ) -> bool:
        """Infers the chunk that is due; see `RealtimeLoop.infer`."""

    def inferred_actions(self) -> NDArray[np.float32]:
        """Returns the chunk that `infer` made last, (H, A)."""

    def submit_chunk(self, actions: NDArray[np.float32], observed_ns: int) -> bool:
        """Hands over the finished chunk that is due; see `RealtimeLoop.submit_chunk`."""

    def drain_ticks(self) -> NDArray[np.void]:
        """Returns the ticks since the last call; see `RealtimeLoop.drain_ticks`."""

    def drain_events(self) -> list[LoopEvent]:
        """Returns the events since the last call."""
