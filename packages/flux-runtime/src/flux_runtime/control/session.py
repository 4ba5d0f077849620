"""Opens a policy, checks it against a robot, connects the robot and runs episodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from flux_core.agreement import Changes
from flux_core.bundle import Bundle, DescribedBundle, Manifest
from flux_core.errors import BundleError, RobotError, UsageError
from flux_core.robots import GripperClosing, MotionLimits, RobotSpec, stated_rates

from ..chunking import DEFAULT_DELAY, ChunkFacts, Chunking, Mode, resolve_chunking
from ..deployment import (
    CameraLook,
    DeploymentFacts,
    DeploymentReport,
    Observed,
    check_deployment,
)
from ..engines.core import load_core
from ..engines.golden_replay import GoldenResult
from ..engines.names import AUTO
from ..engines.opening import (
    DEFAULT_THREADS,
    choose_engine,
    engine_tolerance,
    open_flow_policy,
)
from ..realtime import RealtimeOptions, core_grippers, gripper_settings
from ..realtime.options import check_speed
from ..realtime.remote_options import RemoteOptions
from ..robots import RobotRequest, SimulatedRobot, has_topics, is_recording
from .agreement import agreed_bundle
from .episode import EpisodeResult, run_episode
from .episode_log import EpisodeLog, ReplayLog
from .latency import StageTimes
from .policy_source import BundleSource, ChunkSource, HoldSource, PolicySource
from .preflight import (
    check_binary,
    check_bundle_fits,
    check_decoder,
    check_golden,
    check_observation,
    motion_limits_in_force,
    spec_in_force,
)
from .success import STRICT_HOLD_TICKS

DEFAULT_SEED = 10_000
DEFAULT_EPISODES, DEFAULT_MAX_STEPS = 10, 400
"""Of a simulated robot."""
DEFAULT_REAL_EPISODES, DEFAULT_MAX_SECONDS = 1, 60.0
"""Of a real one."""
SHIPPED_POLICIES = {"aloha-sim": "aloha_sim_transfer_cube"}


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of the command line; see `flux-runtime run --help`.

    Those of a session are `resolved`.
    """

    robot: str
    bundle: Path | None = None
    task: str | None = None
    episodes: int | None = None
    seed: int = DEFAULT_SEED
    mode: Mode | None = None
    policy: Literal["bundle", "hold"] = "bundle"
    max_steps: int | None = None
    max_seconds: float | None = None
    realtime: bool = False
    inference_delay: int | None = None
    engine: str = AUTO
    threads: int = DEFAULT_THREADS
    report: Path | None = None
    video_episodes: int = 2
    record: Path | None = None
    record_dataset: Path | None = None
    dataset_version: str | None = None
    dry_run: bool = False
    accept_versions: Collection[str] = ()
    changes: Changes = field(default_factory=Changes)
    accepted: tuple[str, ...] = ()
    robot_config: Path | None = None
    transport: str | None = None
    realtime_options: RealtimeOptions = field(default_factory=RealtimeOptions)
    remote: RemoteOptions | None = None

    def robot_request(self, described: DescribedBundle | None = None) -> RobotRequest:
        """Returns what the options say of the robot.

        Args:
            described: the policy's bundle if it is not on this computer.
        """
        return RobotRequest(
            name=self.robot,
            bundle=self.bundle if self.policy == "bundle" else None,
            described=described,
            topics=self.changes.topics,
            config_file=self.robot_config,
            transport=self.transport,
            python=self.realtime_options.driver_python,
            accept_versions=tuple(self.accept_versions),
        )

    def resolved(self, spec: RobotSpec, *, is_real: bool) -> ResolvedRunOptions:
        """Returns the options with the defaults of a real or a simulated robot filled in."""
        if isinstance(self, ResolvedRunOptions):
            return self
        given = {entry.name: getattr(self, entry.name) for entry in fields(RunOptions)}
        if self.episodes is None:
            given["episodes"] = DEFAULT_REAL_EPISODES if is_real else DEFAULT_EPISODES
        seconds = self.max_seconds
        if seconds is None and is_real and self.max_steps is None:
            seconds = DEFAULT_MAX_SECONDS
        steps = [] if self.max_steps is None else [self.max_steps]
        if seconds is not None:
            steps.append(max(1, round(seconds * spec.control_hz)))
        given["max_steps"] = min(steps, default=DEFAULT_MAX_STEPS)
        return ResolvedRunOptions(**given)


@dataclass(frozen=True, kw_only=True)
class ResolvedRunOptions(RunOptions):
    """Options of which the number of episodes and their longest duration are known."""

    episodes: int = DEFAULT_EPISODES
    max_steps: int = DEFAULT_MAX_STEPS


@dataclass(frozen=True, kw_only=True)
class SessionFacts:
    """What a session in lockstep and one in real time have in common.

    `spec` is the robot's spec with the limits in force; the bundle or the options of the run may
    have tightened some of them. `deployment` is what the deployment check has found, None without
    a policy.
    """

    options: ResolvedRunOptions
    spec: RobotSpec
    source: ChunkSource
    bundle: DescribedBundle | None
    prompt: str
    times: StageTimes
    golden_max_abs_error: float | None
    chunking: Chunking
    deployment: DeploymentReport | None = None
    clock: ClassVar[Literal["simulated", "monotonic"]]

    @property
    def command_hz(self) -> float:
        """Commands per second."""
        return self.spec.control_hz

    @property
    def speed(self) -> float:
        """The share of their speed at which chunks are executed."""
        return self.options.realtime_options.speed

    def describe(self) -> dict[str, object]:
        """Returns the facts that do not depend on the outcome of the episodes."""
        return {
            "robot": self.spec.name,
            "policy": self.source.name,
            "engine": self.source.engine,
            **self.chunking.as_data(),
            "clock": self.clock,
            "command_hz": self.command_hz,
            "speed": self.speed,
            "bundle": self.bundle.where if self.bundle else None,
            "prompt_tokens": self.bundle.manifest.max_prompt_tokens if self.bundle else None,
            "prompt": self.prompt,
            "golden_max_abs_error": self.golden_max_abs_error,
            "execution_horizon": self.source.execution_horizon,
            "changed_after_training": self.options.changes.as_data(),
            "deployment": self.deployment.as_data() if self.deployment else None,
            **self.source.describe(),
        }


@dataclass(frozen=True, kw_only=True)
class Session(SessionFacts):
    """A connected robot on simulated time, and a policy that has passed the preflight checks."""

    robot: SimulatedRobot
    limits: Mapping[str, object]
    clock = "simulated"

    def describe(self) -> dict[str, object]:
        """Returns the facts that do not depend on the outcome of the episodes."""
        return super().describe() | {
            "inference_delay": _inference_delay(self),
            "limits": self.limits,
            "scheduling": None,
        }


@dataclass(frozen=True, kw_only=True)
class OpenedPolicy:
    """A policy that may be asked for chunks.

    Attributes:
        bundle: its bundle, with the changes of the run.
        source: of its chunks.
        golden: how its network has reproduced the golden; None if that is for its server to do.
        can_continue: whether its chunks can continue the running one.
    """

    bundle: DescribedBundle
    source: PolicySource
    golden: GoldenResult | None
    can_continue: bool

    @property
    def golden_max_abs_error(self) -> float | None:
        """The largest error of an action against the reference, if that is known."""
        return None if self.golden is None else self.golden.max_abs_error

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest


def open_policy(
    options: RunOptions, spec: RobotSpec, times: StageTimes, tasks: Sequence[str] | None = ()
) -> OpenedPolicy | None:
    """Opens the bundle of `options` for a robot and replays its golden; None with `--policy hold`.

    Args:
        options: name the bundle, the engine and the task.
        spec: the robot's spec.
        times: records the times of the stages.
        tasks: prompts that the policy may get in addition to the task of `options` or the bundle;
            None for all of the bundle's tasks.

    Raises:
        FluxError: the bundle does not fit the robot, or does not reproduce its golden here.
    """
    bundle = _open_bundle(options, spec)
    if bundle is None:
        return None
    from flux_core.policy_io import PolicyIO

    more = tasks_of(bundle).values() if tasks is None else tasks
    words = (options.task or bundle.manifest.prompt, *more)
    if bundle.manifest.prompt_buckets and all(words):
        io = PolicyIO.from_bundle(bundle)
        bundle = bundle.for_prompts(max(io.most_tokens(text) for text in words))
    # Any: for a type checker, its cached properties do not match the protocol's properties.
    encoder: Any = PolicyIO.from_bundle(bundle)
    check_decoder(encoder.scale, spec)
    engine = choose_engine(options.engine, bundle.manifest.precision, bundle).name
    policy = open_flow_policy(bundle, engine=engine, num_threads=options.threads)
    tolerance = engine_tolerance(bundle.manifest, engine)
    golden = check_golden(bundle, policy, engine, tolerance)
    source = BundleSource(bundle=bundle, encoder=encoder, policy=policy, engine=engine, times=times)
    return OpenedPolicy(
        bundle=bundle,
        source=source,
        golden=golden,
        can_continue=policy.can_continue,
    )


def tasks_of(bundle: DescribedBundle | None) -> Mapping[str, str]:
    """Returns the tasks that a bundle names: key -> task in words."""
    section = {} if bundle is None else bundle.config.get("inference")
    tasks = section.get("task_descriptions") if isinstance(section, Mapping) else None
    if not isinstance(tasks, Mapping):
        return {}
    return {str(key): text for key, text in tasks.items() if isinstance(text, str) and text}


def chunking_of(options: RunOptions, policy: OpenedPolicy | None, *, is_real: bool) -> Chunking:
    """Returns how chunks follow each other in a run; see `resolve_chunking`.

    Raises:
        UsageError: the policy or its engine cannot do what the options ask for.
    """
    facts = None
    if policy is not None:
        facts = ChunkFacts.of_bundle(
            policy.bundle, engine=policy.source.engine, can_continue=policy.can_continue
        )
    return resolve_chunking(
        options.mode, facts, has_rtc_option=bool(options.changes.rtc), is_real=is_real
    )


@contextmanager
def connected(
    options: RunOptions, robot: SimulatedRobot, policy: OpenedPolicy | None, times: StageTimes
) -> Iterator[Session]:
    """Connects `robot` on simulated time, refuses it if the policy cannot drive it, and closes it
    at the end."""
    options.realtime_options.check_unused(options.robot)
    check_speed(options.realtime_options.speed, robot.spec)
    tightening = options.realtime_options.tightening
    spec = spec_in_force(policy.bundle.config, robot.spec) if policy else robot.spec
    spec = tightening.apply(spec)
    config = policy.bundle.config if policy else {}
    limits = stated_only(motion_limits_in_force(config, robot.spec, tightening))
    chunking = chunking_of(options, policy, is_real=False)
    if policy is not None:
        closing_below = gripper_closing(policy.bundle, spec)
        check_binary(policy.source.binary_mask, spec, closing_below)
    with closing(robot):
        robot.connect()
        bundle = policy.bundle if policy else None
        prompt = options.task or default_prompt(robot.task, bundle)
        deployment = None
        if policy is not None:
            deployment = _check_first_look(robot, spec, policy, prompt, options)
        session = Session(
            options=options.resolved(robot.spec, is_real=False),
            robot=robot,
            spec=spec,
            source=policy.source if policy else HoldSource(spec),
            bundle=bundle,
            prompt=prompt,
            times=times,
            golden_max_abs_error=policy.golden_max_abs_error if policy else None,
            chunking=chunking,
            limits=limits,
            deployment=deployment,
        )
        _check_timing(session)
        yield session


def stated_only(limits: MotionLimits) -> dict[str, object]:
    """Returns the limits of a simulated robot as data; nothing stands in for what is not stated."""
    data = limits.as_data()
    derived = [name for name, texts in limits.sources.items() if texts[0].startswith("default")]
    return {name: value for name, value in data.items() if name not in derived}


def shipped_policy(robot: str) -> Path:
    """Returns the directory of the bundle that is shipped with this package for `robot`."""
    if robot not in SHIPPED_POLICIES:
        raise UsageError(
            f"--bundle: expected a bundle, got none, and flux ships no policy for robot {robot}. "
            f"Name one with --bundle DIR."
        )
    return policy_folder(SHIPPED_POLICIES[robot])


def policy_folder(name: str) -> Path:
    """Returns the directory of a bundle that is shipped with this package."""
    path = Path(__file__).parents[1] / "policies" / name
    if not path.is_dir():
        raise BundleError(
            f"{path}: expected the shipped policy, got no such folder. Name one with --bundle DIR, "
            f"or try --policy hold."
        )
    return path


def loop_setup(session: Session) -> dict[str, Any]:
    """Returns the `limits` in force and the `settings` of a `ControlLoop`, as plain data;
    `continuation` among these holds the arguments of its ContinuationSettings."""
    spec = session.spec
    limits = {"lower": spec.lower, "upper": spec.upper, "max_velocity": spec.max_velocity}
    acceleration, jerk = stated_rates(spec)
    if acceleration:
        limits |= {"max_acceleration": acceleration, "max_jerk": jerk}
    return {"limits": limits, "settings": loop_timing(session)}


def make_loop(source: ChunkSource, setup: Mapping[str, Any]) -> Any:
    """Builds a new `ControlLoop`.

    Args:
        source: of the chunks.
        setup: what `loop_setup` returned.
    """
    core = load_core()
    settings = dict(setup["settings"])
    continuation = core.ContinuationSettings(**settings.pop("continuation"))
    return core.ControlLoop(
        **source.loop_arguments(setup["settings"]["continuation"]),
        limits=core.SafetyLimits(**setup["limits"]),
        **{**settings, **core_grippers(settings)},
        continuation=continuation,
    )


def loop_timing(session: Session) -> dict[str, Any]:
    """Returns the arguments of a `ControlLoop` that say when what is executed, as plain data;
    `continuation` holds those of its ContinuationSettings."""
    return {
        "control_hz": session.spec.control_hz,
        "execution_horizon": session.source.execution_horizon,
        "mode": session.chunking.mode,
        "inference_delay": _inference_delay(session),
        "speed": session.options.realtime_options.speed,
        "continuation": session.chunking.continuation(),
        **gripper_settings(gripper_closing(session.bundle, session.spec)),
    }


def gripper_closing(bundle: DescribedBundle | None, spec: RobotSpec) -> GripperClosing | None:
    """Returns which commands close a gripper, if any; `spec` has the limits in force.

    Raises:
        ConfigError: the bundle says so in a way that cannot be meant.
    """
    if spec.is_commanded_by_differences:
        return None
    return GripperClosing.of(bundle.config if bundle is not None else {}, spec) or None


def _inference_delay(session: Session) -> int:
    """Returns the control steps from an observation to its chunk."""
    if session.options.inference_delay is not None:
        return session.options.inference_delay
    return 0 if session.chunking.mode == "sync" else DEFAULT_DELAY


def _check_timing(session: Session) -> None:
    """Refuses a delay that the mode cannot have, before anything moves.

    Raises:
        UsageError: the message has the numbers.
    """
    chunking, delay = session.chunking, _inference_delay(session)
    if chunking.mode == "rtc":
        chunking.require_delay(
            # As in the loop: a product may be a little above the whole number that is meant.
            math.ceil(delay * session.options.realtime_options.speed - 1e-9),
            execution_horizon=session.source.execution_horizon,
            action_horizon=session.source.action_horizon,
            what=f"--inference-delay {delay}",
            remedy="a smaller one",
        )
    try:
        make_loop(session.source, loop_setup(session)).stop()
    except ValueError as error:
        raise UsageError(f"--mode {chunking.mode}: {error}") from error


def drive(
    session: Session,
    seed: int,
    *,
    on_tick: Callable[[int], None] = lambda step: None,
    hold_ticks: int = STRICT_HOLD_TICKS,
    log: EpisodeLog | None = None,
    replay_log: ReplayLog | None = None,
    before_tick: Callable[[], None] = lambda: None,
    on_end: Callable[[EpisodeResult], None] = lambda result: None,
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
            loop=make_loop(session.source, loop_setup(session)),
            prompt=session.prompt,
            seed=seed,
            max_steps=session.options.max_steps,
            on_tick=on_tick,
            hold_ticks=hold_ticks,
            log=log,
            replay_log=replay_log,
            before_tick=before_tick,
            on_end=on_end,
        )
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        if session.options.remote is not None:
            raise RobotError(f"{session.spec.name}: stopped: {reason}") from error
        raise RobotError(
            f"{session.spec.name}: the control loop failed ({reason}). Check with "
            f"'flux-runtime run --dry-run' that the bundle fits the robot."
        ) from error


def _open_bundle(options: RunOptions, spec: RobotSpec) -> Bundle | None:
    """Opens the bundle and refuses one for another robot, before any slow step."""
    if options.policy == "hold":
        changes = _without_topics(options.changes, spec)
        if options.bundle is not None:
            raise UsageError("--policy hold: expected no --bundle, got one. Leave one of them out.")
        if changes:
            raise UsageError(
                "--policy hold: expected no options that change a bundle, got "
                f"{', '.join(changes.as_data())}. Leave them out."
            )
        return None
    bundle = Bundle.open(
        options.bundle or shipped_policy(options.robot), accept_versions=options.accept_versions
    )
    check_bundle_fits(bundle.manifest, spec)
    spec_in_force(bundle.config, spec)
    section = bundle.config.get("inference")
    has_operator = isinstance(section, Mapping) and "operator" in section
    changes = options.changes if has_operator else _without_topics(options.changes, spec)
    return agreed_bundle(bundle, changes, options.task)


def _without_topics(changes: Changes, spec: RobotSpec) -> Changes:
    """Returns the changes of the bundle alone: the topics go to the robot's driver, too."""
    return replace(changes, topics={}) if has_topics(spec.name) else changes


def _check_first_look(
    robot: SimulatedRobot,
    spec: RobotSpec,
    policy: OpenedPolicy,
    prompt: str,
    options: RunOptions,
) -> DeploymentReport:
    """Takes one observation, checks that the network can use it, and compares it with what the
    bundle says of its training set."""
    cameras = policy.manifest.cameras

    def look() -> Observed:
        observation = robot.observe(prompt, cameras)
        check_observation(observation, spec, cameras)
        policy.source.check_observation(observation, spec)
        looks = {name: CameraLook(image=image) for name, image in observation.images.items()}
        return Observed(state=observation.state, cameras=looks, is_simulated=True)

    return check_deployment(
        robot.spec,
        DeploymentFacts.of(policy.manifest, policy.bundle.config),
        look,
        accepted=options.accepted,
        may_refuse=False,
        # A recording shows its first frame, and would go on to its next episode.
        at_start=None if is_recording(options.robot) else lambda: robot.reset(options.seed),
    )


def default_prompt(task: str | None, bundle: DescribedBundle | None) -> str:
    """Returns the prompt of a run without `--task`; `task` is that of a simulated robot."""
    if bundle is not None and bundle.manifest.prompt:
        return bundle.manifest.prompt
    if task is not None:
        return task
    if bundle is None:
        return ""
    raise UsageError(
        "--task: expected a task, got none, and the bundle has no default task. Add --task T."
    )
