"""`flux-runtime run`: drives a robot with a policy for some episodes and reports the results."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flux_core.errors import FluxError

from ..control.episode import EpisodeResult
from ..control.latency import StageTimes
from ..control.session import RunOptions, Session, connected, open_policy, shipped_policy
from ..report import require_report_dependencies
from ..robots import make_robot
from .recording import prepare_recording
from .run_log import RunLog

__all__ = ["RunOptions", "open_session", "run", "shipped_policy"]

logger = logging.getLogger("flux.runtime")


def run(
    options: RunOptions,
    on_episode: Callable[[EpisodeResult], None] = lambda result: None,
    on_report: Callable[[dict[str, object]], None] = lambda report: None,
) -> dict[str, object]:
    """Runs the preflight checks and the episodes; writes the requested report and recording.

    Args:
        options: the options of the command line.
        on_episode: called after each episode that ended as planned.
        on_report: called with the JSON report, also if an error, a fault or Ctrl-C ends the run
            early once an episode has begun; the exception is raised afterwards.

    Returns:
        The JSON report of the command.

    Raises:
        FluxError: a preflight check fails, before anything has moved; or the run fails.
        KeyboardInterrupt: the operator stops the run.
    """
    if options.report is not None:
        require_report_dependencies(options.report)
    if options.record is not None and not options.dry_run:
        prepare_recording(options.record)
    log = RunLog(options)
    try:
        with open_session(options) as session:
            report = session.describe() | {"dry_run": True, "ok": True}
            if not options.dry_run:
                log.run_episodes(session, on_episode)
    except BaseException as error:  # Ctrl-C too.
        _report_what_happened(log, error, on_report)
        raise
    if not options.dry_run:
        report = log.report()
    on_report(report)
    return report


@contextmanager
def open_session(options: RunOptions) -> Iterator[Session]:
    """Connects the robot and opens the policy; closes the robot at the end."""
    times = StageTimes()
    robot = make_robot(options.robot)
    policy = open_policy(options, robot.spec, times)
    with connected(options, robot, policy, times) as session:
        yield session


def _report_what_happened(
    log: RunLog, error: BaseException, on_report: Callable[[dict[str, object]], None]
) -> None:
    """Reports a run that ended early; nothing that goes wrong here hides why it did."""
    if not log.results:
        return
    try:
        on_report(log.report(error))
    except (FluxError, OSError, ValueError, RuntimeError) as second:
        logger.error("the report of the interrupted run could not be written: %s", second)
