"""`flux-runtime run`: drives a robot with a policy for some episodes and says how it went."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flux_core.bundle import Bundle, Manifest
from flux_core.errors import BundleError, RobotError, UsageError
from flux_core.robots import RobotSpec

from .engine import DEFAULT_THREADS, ENGINE, load_core, open_flow_policy
from .episode import EpisodeResult, run_episode
from .golden import GoldenResult
from .latency import Histogram, StageTimes
from .policy_source import BundleSource, ChunkSource, HoldSource, ObservationEncoder
from .preflight import (
    check_bundle_fits,
    check_decoder,
    check_encoding,
    check_golden,
    check_observation,
)
from .recording import Recorder, prepare_recording
from .report import ReportData, VideoRecorder, require_report_dependencies, write_report
from .robots import Robot, SimulatedRobot, make_robot
from .summary import collect_histograms, summarize

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
    threads: int = DEFAULT_THREADS
    report: Path | None = None
    video_episodes: int = 2
    record: Path | None = None
    dry_run: bool = False


@dataclass(frozen=True, kw_only=True)
class Session:
    """A robot that is connected and a policy that has passed the preflight."""

    options: RunOptions
    robot: Robot
    source: ChunkSource
    bundle: Bundle | None
    prompt: str
    clock: Literal["simulated", "monotonic"]
    times: StageTimes
    golden_max_abs_error: float | None

    def describe(self) -> dict[str, object]:
        """Returns what does not depend on how the episodes go."""
        return {
            "robot": self.robot.spec.name,
            "policy": self.source.name,
            "engine": self.source.engine,
            "mode": self.options.mode,
            "clock": self.clock,
            "bundle": str(self.bundle.directory) if self.bundle else None,
            "prompt": self.prompt,
            "golden_max_abs_error": self.golden_max_abs_error,
        }


@dataclass(frozen=True, kw_only=True)
class _OpenedPolicy:
    """A bundle's network that has reproduced its golden."""

    manifest: Manifest
    encoder: ObservationEncoder
    source: BundleSource
    golden: GoldenResult


def run(
    options: RunOptions, on_episode: Callable[[EpisodeResult], None] = lambda result: None
) -> dict[str, object]:
    """Runs the preflight and the episodes; writes the report and the recording asked for.

    Args:
        options: the command line.
        on_episode: called after each episode.

    Returns:
        The JSON report of the command.

    Raises:
        FluxError: the preflight fails; nothing has moved.
    """
    if options.report is not None:
        require_report_dependencies(options.report)
    if options.record is not None and not options.dry_run:
        prepare_recording(options.record)
    with open_session(options) as session:
        if options.dry_run:
            return session.describe() | {"dry_run": True, "ok": True}
        recorder = Recorder(options.record, session.robot.spec) if options.record else None
        results: list[EpisodeResult] = []
        videos: list[bytes | None] = []
        for index in range(options.episodes):
            result, video = _run_one(session, index)
            results.append(result)
            videos.append(video)
            if recorder is not None:
                recorder.write(result, session.prompt)
            on_episode(result)
        histograms = collect_histograms(results, session.times.histograms())
        report = session.describe() | summarize(results, histograms)
        if options.report is not None:
            _write_report(session, results, videos, histograms, report)
            report["report"] = str(options.report)
    return report


@contextmanager
def open_session(options: RunOptions) -> Iterator[Session]:
    """Connects the robot and opens the policy; closes the robot at the end."""
    times = StageTimes()
    robot = make_robot(options.robot)
    bundle = _open_bundle(options, robot.spec)
    opened = _open_policy(options, bundle, robot.spec, times) if bundle else None
    with closing(robot):
        robot.connect()
        prompt = options.task or _default_prompt(robot, bundle)
        if opened is not None:
            _check_first_look(robot, opened, prompt)
        is_simulated = isinstance(robot, SimulatedRobot) and not options.realtime
        yield Session(
            options=options,
            robot=robot,
            source=opened.source if opened else HoldSource(robot.spec),
            bundle=bundle,
            prompt=prompt,
            clock="simulated" if is_simulated else "monotonic",
            times=times,
            golden_max_abs_error=opened.golden.max_abs_error if opened else None,
        )


def shipped_policy(robot: str) -> Path:
    """Returns the bundle that comes with this package for `robot`."""
    if robot not in SHIPPED_POLICIES:
        raise UsageError(f"--bundle: flux ships no policy for robot {robot}. Name a bundle.")
    path = Path(__file__).parent / "policies" / SHIPPED_POLICIES[robot]
    if not path.is_dir():
        raise BundleError(
            f"{path}: this installation holds no shipped policy. Name one with --bundle DIR, or "
            f"try --policy hold."
        )
    return path


def _open_bundle(options: RunOptions, spec: RobotSpec) -> Bundle | None:
    """Opens the bundle and refuses one for another robot, before anything slow."""
    if options.policy == "hold":
        if options.bundle is not None:
            raise UsageError("--policy hold: takes no --bundle. Leave one of them out.")
        return None
    bundle = Bundle.open(options.bundle or shipped_policy(options.robot))
    check_bundle_fits(bundle.manifest, spec)
    return bundle


def _open_policy(
    options: RunOptions, bundle: Bundle, spec: RobotSpec, times: StageTimes
) -> _OpenedPolicy:
    """Loads the network and replays the golden."""
    from flux_core.policy_io import PolicyIO

    # Any: to a type checker its cached property is not the protocol's property.
    encoder: Any = PolicyIO.from_bundle(bundle)
    check_decoder(encoder.scale, spec)
    policy = open_flow_policy(bundle, num_threads=options.threads)
    golden = check_golden(bundle, policy, ENGINE)
    source = BundleSource(bundle=bundle, encoder=encoder, policy=policy, engine=ENGINE, times=times)
    return _OpenedPolicy(manifest=bundle.manifest, encoder=encoder, source=source, golden=golden)


def _check_first_look(robot: Robot, opened: _OpenedPolicy, prompt: str) -> None:
    """Takes one observation and refuses one that the network could not use."""
    observation = robot.observe(prompt, opened.manifest.cameras)
    check_observation(observation, robot.spec, opened.manifest.cameras)
    check_encoding(opened.encoder.encode(observation), opened.manifest)


def _default_prompt(robot: Robot, bundle: Bundle | None) -> str:
    if bundle is not None and bundle.manifest.prompt:
        return bundle.manifest.prompt
    if isinstance(robot, SimulatedRobot):
        return robot.task
    if bundle is None:
        return ""
    raise UsageError("--task: the bundle names no default task. Say what the robot shall do.")


def make_loop(session: Session) -> Any:
    """Builds a fresh `ControlLoop` with the robot's limits."""
    core, spec, options = load_core(), session.robot.spec, session.options
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


def _run_one(session: Session, index: int) -> tuple[EpisodeResult, bytes | None]:
    """Runs episode `index`, filming it when the report shall show it."""
    options, robot = session.options, session.robot
    video: VideoRecorder | None = None
    if options.report and index < options.video_episodes and isinstance(robot, SimulatedRobot):
        video = VideoRecorder(robot, control_hz=robot.spec.control_hz)
    try:
        result = run_episode(
            robot=robot,
            source=session.source,
            loop=make_loop(session),
            prompt=session.prompt,
            seed=options.seed + index,
            max_steps=options.max_steps,
            on_tick=video.on_tick if video else lambda step: None,
        )
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise RobotError(
            f"{robot.spec.name}: the control loop fails ({reason}). Does the bundle "
            f"fit the robot? See 'flux-runtime run --dry-run'."
        ) from error
    return result, video.finish() if video else None


def _write_report(
    session: Session,
    results: list[EpisodeResult],
    videos: list[bytes | None],
    histograms: dict[str, Histogram],
    report: dict[str, object],
) -> None:
    assert session.options.report is not None
    data = ReportData(
        spec=session.robot.spec,
        summary=report,
        results=results,
        videos=videos,
        num_plotted=session.options.video_episodes,
        histograms=histograms,
        manifest=session.bundle.manifest if session.bundle else None,
    )
    write_report(session.options.report, data)
