"""Opens a policy, checks it against a robot, connects the robot and runs episodes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from flux_core.agreement import Changes
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
from ..realtime import RealtimeOptions
from ..robots import Robot, SimulatedRobot
from .agreement import agreed_bundle
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
    """The options of the command line; see `flux-runtime run --help`."""

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
    changes: Changes = field(default_factory=Changes)
    realtime_options: RealtimeOptions = field(default_factory=RealtimeOptions)


@dataclass(frozen=True, kw_only=True)
class Session:
    """A connected robot and a policy that has passed the preflight checks.

    `spec` is the robot's spec with the limits in force; the bundle may have tightened some of them.
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
        """Returns the facts that do not depend on the outcome of the episodes."""
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
            "execution_horizon": self.source.execution_horizon,
            "changed_after_training": self.options.changes.as_data(),
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
        """The bundle's manifest."""
        return self.bundle.manifest


def open_policy(
    options: RunOptions, spec: RobotSpec, times: StageTimes, tasks: Sequence[str] = ()
) -> OpenedPolicy | None:
    """Opens the bundle of `options` for a robot and replays its golden; None with `--policy hold`.

    Args:
        options: name the bundle, the engine and the task.
        spec: the robot's spec.
        times: records the times of the stages.
        tasks: prompts that the policy may get in addition to the task of `options` or the bundle.

    Raises:
        FluxError: the bundle does not fit the robot, or does not reproduce its golden here.
    """
    bundle = _open_bundle(options, spec)
    if bundle is None:
        return None
    from flux_core.policy_io import PolicyIO

    words = (options.task or bundle.manifest.prompt, *tasks)
    if bundle.manifest.prompt_buckets and all(words):
        io = PolicyIO.from_bundle(bundle)
        bundle = bundle.for_prompts(max(io.most_tokens(text) for text in words))
    # Any: for a type checker, its cached properties do not match the protocol's properties.
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
    """Connects `robot`, refuses it if the policy cannot drive it, and closes it at the end."""
    is_simulated = isinstance(robot, SimulatedRobot)
    spec = spec_in_force(policy.bundle.config, robot.spec) if policy else robot.spec
    clock = "simulated" if is_simulated and not options.realtime else "monotonic"
    if clock == "simulated":
        options.realtime_options.check_unused(spec.name)
    spec = options.realtime_options.tightening.apply(spec)
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
            clock=clock,
            times=times,
            golden_max_abs_error=policy.golden.max_abs_error if policy else None,
        )


def shipped_policy(robot: str) -> Path:
    """Returns the directory of the bundle that is shipped with this package for `robot`."""
    if robot not in SHIPPED_POLICIES:
        raise UsageError(
            f"--bundle: expected a bundle, got none, and flux ships no policy for robot {robot}. "
            f"Name one with --bundle DIR."
        )
    path = Path(__file__).parents[1] / "policies" / SHIPPED_POLICIES[robot]
    if not path.is_dir():
        raise BundleError(
            f"{path}: expected the shipped policy, got no such folder. Name one with --bundle DIR, "
            f"or try --policy hold."
        )
    return path


def make_loop(session: Session) -> Any:
    """Builds a new `ControlLoop` with the limits in force."""
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
        RobotError: the control loop failed.
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
            f"{session.spec.name}: the control loop failed ({reason}). Check with "
            f"'flux-runtime run --dry-run' that the bundle fits the robot."
        ) from error


def _open_bundle(options: RunOptions, spec: RobotSpec) -> Bundle | None:
    """Opens the bundle and refuses one for another robot, before any slow step."""
    if options.policy == "hold":
        if options.bundle is not None:
            raise UsageError("--policy hold: expected no --bundle, got one. Leave one of them out.")
        if options.changes:
            raise UsageError(
                "--policy hold: expected no options that change a bundle, got "
                f"{', '.join(options.changes.as_data())}. Leave them out."
            )
        return None
    bundle = Bundle.open(
        options.bundle or shipped_policy(options.robot), accept_versions=options.accept_versions
    )
    check_bundle_fits(bundle.manifest, spec)
    spec_in_force(bundle.config, spec)
    return agreed_bundle(bundle, options.changes, options.task)


def _check_first_look(robot: Robot, spec: RobotSpec, policy: OpenedPolicy, prompt: str) -> None:
    """Takes one observation and checks that the network can use it."""
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
    raise UsageError(
        "--task: expected a task, got none, and the bundle has no default task. Add --task T."
    )
