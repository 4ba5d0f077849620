"""`flux-runtime run`: drives a robot with a policy for some episodes and reports the results."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flux_core.errors import FluxError, RobotError

from ..control.episode import EpisodeResult
from ..control.latency import StageTimes
from ..control.realtime_session import Confirm, RealtimeSession, connected_realtime
from ..control.session import RunOptions, Session, connected, open_policy, shipped_policy
from ..realtime import DriverProcess
from ..realtime.niceness import DRIVER_NICENESS
from ..recording import dataset_recorder
from ..report import require_report_dependencies
from ..robots import SimulatedRobot, is_simulated_class, make_robot
from .recording import prepare_recording
from .run_log import RunLog

__all__ = ["RunHooks", "RunOptions", "open_session", "run", "shipped_policy"]

logger = logging.getLogger("flux.runtime")


@dataclass(frozen=True, kw_only=True)
class RunHooks:
    """What a run tells, and asks, while it goes on.

    Attributes:
        on_ready: called with the session before the first command.
        on_episode: called after each episode that ended as planned.
        on_report: called with the JSON report before the page is written, also if an error, a
            fault or Ctrl-C ends the run early once an episode has begun; the exception is raised
            afterwards.
        confirm: asks the operator before a robot is moved back to its limits, which happens only
            with `return_to_limits`; by default that option is taken for the answer.
    """

    on_ready: Callable[[Session | RealtimeSession], None] = lambda session: None
    on_episode: Callable[[EpisodeResult], None] = lambda result: None
    on_report: Callable[[dict[str, object]], None] = lambda report: None
    confirm: Confirm = lambda question, cancelled: True


def run(options: RunOptions, hooks: RunHooks = RunHooks()) -> dict[str, object]:
    """Runs the preflight checks and the episodes; writes the requested report and recording.

    Args:
        options: the options of the command line.
        hooks: what is called meanwhile.

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
    directory = None if options.dry_run else options.record_dataset
    version = None if options.dry_run else options.dataset_version
    log = RunLog(options)
    try:
        with (
            dataset_recorder(directory, version) as log.dataset,
            open_session(options, hooks.confirm) as session,
        ):
            report = session.describe() | {"dry_run": True, "ok": True}
            if log.dataset is not None:
                log.dataset.open(session)
            hooks.on_ready(session)
            if not options.dry_run:
                log.run_episodes(session, hooks.on_episode)
    except BaseException as error:  # Ctrl-C too.
        _report_what_happened(log, error, hooks.on_report)
        raise
    if not options.dry_run:
        report = log.report()
    _hand_over(log, report, hooks.on_report)
    return report


@contextmanager
def open_session(
    options: RunOptions, confirm: Confirm = lambda question, cancelled: True
) -> Iterator[Session | RealtimeSession]:
    """Connects the robot and opens the policy; closes the robot at the end."""
    times = StageTimes()
    python = options.realtime_options.driver_python
    if not options.realtime and python is None and is_simulated_class(options.robot):
        with _lockstep(options, times) as session:
            yield session
        return
    realtime = options.realtime_options
    with DriverProcess.start(
        options.robot,
        python=python,
        max_retries=realtime.max_retries,
        niceness=DRIVER_NICENESS if realtime.priority else 0,
    ) as driver:
        if driver.simulation is None or options.realtime:
            policy = open_policy(options, driver.spec, times)
            with connected_realtime(options, driver, policy, times, confirm) as session:
                yield session
            return
    with _lockstep(options, times) as session:  # only its process could tell that it is simulated
        yield session


@contextmanager
def _lockstep(options: RunOptions, times: StageTimes) -> Iterator[Session]:
    robot = make_robot(options.robot)
    if not isinstance(robot, SimulatedRobot):
        raise RobotError(f"{options.robot}: expected a simulated robot, got a real one")
    policy = open_policy(options, robot.spec, times)
    with connected(options, robot, policy, times) as session:
        yield session


def _hand_over(
    log: RunLog, report: dict[str, object], on_report: Callable[[dict[str, object]], None]
) -> None:
    """Reports first: a page that cannot be written, or a signal meanwhile, must not cost that."""
    try:
        on_report(report)
    finally:
        if not log.options.dry_run:
            log.write_page(report)


def _report_what_happened(
    log: RunLog, error: BaseException, on_report: Callable[[dict[str, object]], None]
) -> None:
    """Reports a run that ended early; nothing that goes wrong here hides why it did."""
    if not log.results:
        return
    try:
        _hand_over(log, log.report(error), on_report)
    except (FluxError, OSError, ValueError, RuntimeError) as second:
        logger.error("the report of the interrupted run could not be written: %s", second)
