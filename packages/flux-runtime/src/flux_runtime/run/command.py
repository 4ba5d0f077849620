"""`flux-runtime run`: drives a robot with a policy for some episodes and reports the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..control.episode import EpisodeResult
from ..control.latency import Histogram, StageTimes
from ..control.session import RunOptions, Session, connected, drive, open_policy, shipped_policy
from ..report import ReportData, VideoRecorder, require_report_dependencies, write_report
from ..robots import SimulatedRobot, make_robot
from .episode_totals import collect_histograms, summarize
from .recording import Recorder, prepare_recording

__all__ = ["RunOptions", "open_session", "run", "shipped_policy"]


def run(
    options: RunOptions, on_episode: Callable[[EpisodeResult], None] = lambda result: None
) -> dict[str, object]:
    """Runs the preflight checks and the episodes; writes the requested report and recording.

    Args:
        options: the options of the command line.
        on_episode: called after each episode.

    Returns:
        The JSON report of the command.

    Raises:
        FluxError: a preflight check fails, before anything has moved; or the control loop fails.
    """
    if options.report is not None:
        require_report_dependencies(options.report)
    if options.record is not None and not options.dry_run:
        prepare_recording(options.record)
    with open_session(options) as session:
        if options.dry_run:
            return session.describe() | {"dry_run": True, "ok": True}
        recorder = Recorder(options.record, session.spec) if options.record else None
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
    policy = open_policy(options, robot.spec, times)
    with connected(options, robot, policy, times) as session:
        yield session


def _run_one(session: Session, index: int) -> tuple[EpisodeResult, bytes | None]:
    """Runs episode `index`, and films it if the report will show it."""
    options, robot = session.options, session.robot
    has_video = options.report and index < options.video_episodes and session.spec.cameras
    if has_video and isinstance(robot, SimulatedRobot):
        video = VideoRecorder(robot, control_hz=robot.spec.control_hz)
        result = drive(session, options.seed + index, on_tick=video.on_tick)
        return result, video.finish()
    return drive(session, options.seed + index), None


def _write_report(
    session: Session,
    results: list[EpisodeResult],
    videos: list[bytes | None],
    histograms: dict[str, Histogram],
    report: dict[str, object],
) -> None:
    assert session.options.report is not None
    data = ReportData(
        spec=session.spec,
        summary=report,
        results=results,
        videos=videos,
        num_plotted=session.options.video_episodes,
        histograms=histograms,
        manifest=session.bundle.manifest if session.bundle else None,
    )
    write_report(session.options.report, data)
