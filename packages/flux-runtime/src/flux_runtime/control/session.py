"""A robot that is connected, a policy that has passed the preflight, and an episode of both."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flux_core.bundle import Bundle, Manifest
from flux_core.errors import BundleError, RobotError, UsageError
from flux_core.robots import RobotSpec

from ..engines.core import load_core
from ..engines.golden_replay import GoldenResult
from ..engines.names import AUTO
from ..engines.opening import (
    DEFAULT_THREADS,
    choose_engine,
    engine_tolerance,
    open_flow_policy,
)
from ..robots import Robot, SimulatedRobot
from .episode import EpisodeResult, run_episode
from .latency import StageTimes
from .policy_source import BundleSource, ChunkSource, HoldSource, ObservationEncoder
from .preflight import (
    check_bundle_fits,
    check_can_be_held,
    check_decoder,
    check_encoding,
    check_golden,
    check_observation,
    spec_in_force,
    warn_of_unenforced_limits,
)
from .success import STRICT_HOLD_TICKS

DEFAULT_SEED = 10_000
DEFAULT_MAX_STEPS = 400
SHIPPED_POLICIES = {"aloha-sim": "aloha_sim_transfer_cube"}


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What the command line asks for; see `flux-runtime run --help`."""

    robot: str
    bundle: Path | None = None
    task: str | None = None
    episodes: int = 10
    seed: int = DEFAULT_SEED
    mode: Literal["sync", "async"] = "sync"
    policy: Literal["bundle", "hold"] = "bundle"
    max_steps: int = DEFAULT_MAX_STEPS
    realtime: bool = False
    inference_delay: int = 5
    engine: str = AUTO
    threads: int = DEFAULT_THREADS
    report: Path | None = None
    video_episodes: int = 2
    record: Path | None = None
    dry_run: bool = False
    accept_versions: Collection[str] = ()


@dataclass(frozen=True, kw_only=True)
class Session:
    """A robot that is connected and a policy that has passed the preflight.

    `spec` is the robot's, with the limits in force: the bundle may have tightened some.
    """

    options: RunOptions
    robot: Robot
    spec: RobotSpec
    source: ChunkSource
    bundle: Bundle | None
    prompt: str
    clock: Literal["simulated", "monotonic"]
    times: StageTimes
    golden_max_abs_error: float | None

    def describe(self) -> dict[str, object]:
        """Returns what does not depend on how the episodes go."""
        return {
            "robot": self.spec.name,
            "policy": self.source.name,
            "engine": self.source.engine,
            "mode": self.options.mode,
            "clock": self.clock,
            "bundle": str(self.bundle.directory) if self.bundle else None,
            "prompt_tokens": self.bundle.manifest.max_prompt_tokens if self.bundle else None,
            "prompt": self.prompt,
            "golden_max_abs_error": self.golden_max_abs_error,
        }


@dataclass(frozen=True, kw_only=True)
class OpenedPolicy:
    """A bundle whose network has reproduced its golden."""

    bundle: Bundle
    encoder: ObservationEncoder
    source: BundleSource
    golden: GoldenResult

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self.bundle.manifest


def open_policy(
    options: RunOptions, spec: RobotSpec, times: StageTimes, tasks: Sequence[str] = ()
) -> OpenedPolicy | None:
    """Opens the bundle of `options` for a robot and replays its golden; None if none is wanted.

    Args:
        options: which bundle, engine and task.
        spec: the robot.
        times: where the stages' times go.
        tasks: what else the policy may be told than the task of `options`, or its bundle's.

    Raises:
        FluxError: it does not fit the robot, or does not reproduce its golden here.
    """
    bundle = _open_bundle(options, spec)
    if bundle is None:
        return None
    from flux_core.policy_io import PolicyIO

    words = (options.task or bundle.manifest.prompt, *tasks)
    if bundle.manifest.prompt_buckets and all(words):
        io = PolicyIO.from_bundle(bundle)
        bundle = bundle.for_prompts(max(io.most_tokens(text) for text in words))
    # Any: to a type checker its cached property is not the protocol's property.
    encoder: Any = PolicyIO.from_bundle(bundle)
    check_decoder(encoder.scale, spec)
    engine = choose_engine(options.engine, bundle.manifest.precision).name
    policy = open_flow_policy(bundle, engine=engine, num_threads=options.threads)
    tolerance = engine_tolerance(bundle.manifest, engine)
    golden = check_golden(bundle, policy, engine, tolerance)
    source = BundleSource(bundle=bundle, encoder=encoder, policy=policy, engine=engine, times=times)
    return OpenedPolicy(bundle=bundle, encoder=encoder, source=source, golden=golden)


@contextmanager
def connected(
    options: RunOptions, robot: Robot, policy: OpenedPolicy | None, times: StageTimes
) -> Iterator[Session]:
    """Connects `robot` and refuses one that the policy could not use; closes it at the end."""
    is_simulated = isinstance(robot, SimulatedRobot)
    spec = spec_in_force(policy.bundle.config, robot.spec) if policy else robot.spec
    check_can_be_held(spec, is_simulated=is_simulated)
    warn_of_unenforced_limits(spec)
    with closing(robot):
        robot.connect()
        bundle = policy.bundle if policy else None
        prompt = options.task or _default_prompt(robot, bundle)
        if policy is not None:
            _check_first_look(robot, spec, policy, prompt)
        yield Session(
            options=options,
            robot=robot,
            spec=spec,
            source=policy.source if policy else HoldSource(spec),
            bundle=bundle,
            prompt=prompt,
            clock="simulated" if is_simulated and not options.realtime else "monotonic",
            times=times,
            golden_max_abs_error=policy.golden.max_abs_error if policy else None,
        )


def shipped_policy(robot: str) -> Path:
    """Returns the bundle that comes with this package for `robot`."""
    if robot not in SHIPPED_POLICIES:
        raise UsageError(f"--bundle: flux ships no policy for robot {robot}. Name a bundle.")
    path = Path(__file__).parents[1] / "policies" / SHIPPED_POLICIES[robot]
    if not path.is_dir():
        raise BundleError(
            f"{path}: this installation holds no shipped policy. Name one with --bundle DIR, or "
            f"try --policy hold."
        )
    return path


def make_loop(session: Session) -> Any:
    """Builds a fresh `ControlLoop` with the limits in force."""
    core, spec, options = load_core(), session.spec, session.options
    has_delay = options.mode == "async" and session.clock == "simulated"
    return core.ControlLoop(
        **session.source.loop_arguments(),
        limits=core.SafetyLimits(
            lower=spec.lower, upper=spec.upper, max_velocity=spec.max_velocity
        ),
        control_hz=spec.control_hz,
        execution_horizon=session.source.execution_horizon,
        mode=options.mode,
        clock=session.clock,
        inference_delay=options.inference_delay if has_delay else 0,
    )


def drive(
    session: Session,
    seed: int,
    *,
    on_tick: Callable[[int], None] = lambda step: None,
    hold_ticks: int = STRICT_HOLD_TICKS,
) -> EpisodeResult:
    """Runs one episode; see `run_episode`.

    Raises:
        RobotError: the control loop fails.
    """
    robot = session.robot
    try:
        return run_episode(
            robot=robot,
            spec=session.spec,
            source=session.source,
            loop=make_loop(session),
            prompt=session.prompt,
            seed=seed,
            max_steps=session.options.max_steps,
            on_tick=on_tick,
            hold_ticks=hold_ticks,
        )
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise RobotError(
            f"{session.spec.name}: the control loop fails ({reason}). Does the bundle "
            f"fit the robot? See 'flux-runtime run --dry-run'."
        ) from error


def _open_bundle(options: RunOptions, spec: RobotSpec) -> Bundle | None:
    """Opens the bundle and refuses one for another robot, before anything slow."""
    if options.policy == "hold":
        if options.bundle is not None:
            raise UsageError("--policy hold: takes no --bundle. Leave one of them out.")
        return None
    bundle = Bundle.open(
        options.bundle or shipped_policy(options.robot), accept_versions=options.accept_versions
    )
    check_bundle_fits(bundle.manifest, spec)
    spec_in_force(bundle.config, spec)
    return bundle


def _check_first_look(robot: Robot, spec: RobotSpec, policy: OpenedPolicy, prompt: str) -> None:
    """Takes one observation and refuses one that the network could not use."""
    observation = robot.observe(prompt, policy.manifest.cameras)
    check_observation(observation, spec, policy.manifest.cameras)
    check_encoding(policy.encoder.encode(observation), policy.manifest)


def _default_prompt(robot: Robot, bundle: Bundle | None) -> str:
    if bundle is not None and bundle.manifest.prompt:
        return bundle.manifest.prompt
    if isinstance(robot, SimulatedRobot):
        return robot.task
    if bundle is None:
        return ""
    raise UsageError("--task: the bundle names no default task. Say what the robot shall do.")
