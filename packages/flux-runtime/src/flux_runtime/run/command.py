"""`flux-runtime run`: drives a robot with a policy for some episodes and reports the results."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace

from flux_core.errors import FluxError, RobotError, UsageError
from flux_core.robots import RobotSpec

from ..control.episode import EpisodeResult
from ..control.latency import StageTimes
from ..control.realtime_session import Confirm, RealtimeSession, connected_realtime
from ..control.session import (
    OpenedPolicy,
    RunOptions,
    Session,
    connected,
    open_policy,
    shipped_policy,
    tasks_of,
)
from ..operator import (
    DeadMan,
    OperatorDesk,
    OperatorStation,
    Screen,
    SilentScreen,
    open_dead_man,
)
from ..predictions import PlaysRecordings, played_whole
from ..realtime import DriverProcess
from ..realtime.niceness import DRIVER_NICENESS
from ..recording import dataset_recorder, recorder_command
from ..remote.opening import PolicyServer, policy_server
from ..report import require_report_dependencies
from ..robots import RobotChoice, SimulatedRobot, choose_robot, is_simulated_class, make_robot
from .recording import prepare_recording
from .run_log import RunLog

__all__ = ["RunHooks", "RunOptions", "open_session", "run", "shipped_policy"]

logger = logging.getLogger("flux.runtime")

NOBODY = "operator: standard input is closed or at its end, so the run begins at once"


@dataclass(frozen=True, kw_only=True)
class RunHooks:
    """What a run tells, and asks, while it goes on.

    Attributes:
        on_choice: called with the robot and its driver before the driver is started.
        on_ready: called with the session before the first command.
        on_episode: called after each episode that ended as planned.
        on_report: called with the JSON report before the page is written, also if an error, a
            fault or Ctrl-C ends the run early once an episode has begun; the exception is raised
            afterwards.
        confirm: asks the operator before a robot is moved back to its limits, which happens only
            with `return_to_limits`; by default that option is taken for the answer.
        operator: makes the desk at which the operator of a real robot asks for something, with the
            dead-man; by default nobody is there, and episodes begin at once.
        screen: where that operator reads.
    """

    on_choice: Callable[[RobotChoice], None] = lambda choice: None
    on_ready: Callable[[Session | RealtimeSession], None] = lambda session: None
    on_episode: Callable[[EpisodeResult], None] = lambda result: None
    on_report: Callable[[dict[str, object]], None] = lambda report: None
    confirm: Confirm = lambda question, cancelled: True
    operator: Callable[[DeadMan | None], OperatorDesk] = lambda dead_man: OperatorDesk(
        None, dead_man
    )
    screen: Screen = field(default_factory=SilentScreen)


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
    log = RunLog(options)
    with _opened_dead_man(options) as dead_man:
        return _run(options, hooks, log, dead_man)


def _run(
    options: RunOptions, hooks: RunHooks, log: RunLog, dead_man: DeadMan | None
) -> dict[str, object]:
    if options.dry_run and options.record_dataset is not None:
        recorder_command()  # is there
    directory = None if options.dry_run else options.record_dataset
    version = None if options.dry_run else options.dataset_version
    try:
        with (
            dataset_recorder(directory, version) as log.dataset,
            open_session(options, hooks.confirm, hooks.on_choice) as session,
        ):
            report = session.describe() | {"dry_run": True, "ok": True}
            if log.dataset is not None:
                log.dataset.open(session)
            hooks.on_ready(session)
            if not options.dry_run:
                with _attended(session, hooks, dead_man) as (attended, station):
                    log.run_episodes(attended, hooks.on_episode, station)
    except BaseException as error:  # Ctrl-C too.
        _report_what_happened(log, error, hooks.on_report)
        raise
    if not options.dry_run:
        report = log.report()
    _hand_over(log, report, hooks.on_report)
    return report


@contextmanager
def _opened_dead_man(options: RunOptions) -> Iterator[DeadMan | None]:
    """Opens the dead-man before anything slow."""
    text = options.realtime_options.dead_man
    if text is None or options.dry_run:
        yield None
        return
    with closing(open_dead_man(text)) as dead_man:
        yield dead_man


@contextmanager
def _attended(
    session: Session | RealtimeSession, hooks: RunHooks, dead_man: DeadMan | None
) -> Iterator[tuple[Session | RealtimeSession, OperatorStation | None]]:
    """Yields the session of a real robot with its operator; others have none.

    Raises:
        UsageError: an option is for an operator, and the robot has none.
    """
    if not isinstance(session, RealtimeSession) or not session.is_real:
        session.options.realtime_options.check_unattended(session.spec.name)
        yield session, None
        return
    with hooks.operator(dead_man) as desk:
        if not desk.is_attended:
            hooks.screen.say(NOBODY)
        station = OperatorStation(desk, hooks.screen, tasks_of(session.bundle))
        confirm = station.confirm if desk.is_terminal else session.confirm
        yield replace(session, confirm=confirm), station


@contextmanager
def open_session(
    options: RunOptions,
    confirm: Confirm = lambda question, cancelled: True,
    on_choice: Callable[[RobotChoice], None] = lambda choice: None,
) -> Iterator[Session | RealtimeSession]:
    """Connects the robot and opens the policy; closes the robot at the end."""
    with policy_server(options) as server:
        described = server.bundle if server is not None else None
        choice = choose_robot(options.robot_request(described))
        on_choice(choice)
        with _connected(options, confirm, choice, server) as session:
            yield session


@contextmanager
def _connected(
    options: RunOptions, confirm: Confirm, choice: RobotChoice, server: PolicyServer | None
) -> Iterator[Session | RealtimeSession]:
    times = StageTimes()
    if choice.is_recorded and options.realtime:
        raise UsageError(
            "--realtime: expected a robot that moves, but a recording does not follow commands. "
            "Leave it out"
        )
    if not options.realtime and _is_simulated(choice):
        with _lockstep(options, choice, times, server) as session:
            yield session
        return
    realtime = options.realtime_options
    with DriverProcess.start(
        choice.name,
        target=choice.target,
        arguments=choice.arguments,
        python=choice.python,
        max_retries=realtime.max_retries,
        niceness=DRIVER_NICENESS if realtime.priority else 0,
    ) as driver:
        if driver.simulation is None or options.realtime:
            # The operator of a real robot may choose among the policy's tasks.
            tasks = None if driver.simulation is None else ()
            policy = _opened(options, driver.spec, times, tasks, server, is_realtime=True)
            with connected_realtime(options, driver, policy, times, confirm) as session:
                yield session
            return
    with _lockstep(options, choice, times, server) as session:  # only its process could tell
        yield session


def _opened(
    options: RunOptions,
    spec: RobotSpec,
    times: StageTimes,
    tasks: Sequence[str] | None,
    server: PolicyServer | None,
    *,
    is_realtime: bool,
) -> OpenedPolicy | None:
    """Opens the policy, here or on its server; None with `--policy hold`."""
    if server is None:
        return open_policy(options, spec, times, tasks)
    return server.opened(options, spec, times, is_realtime=is_realtime)


def _is_simulated(choice: RobotChoice) -> bool:
    """Whether a robot is known to be simulated without its process."""
    if choice.is_simulated is not None:
        return choice.is_simulated
    return choice.python is None and is_simulated_class(choice.name)


@contextmanager
def _lockstep(
    options: RunOptions, choice: RobotChoice, times: StageTimes, server: PolicyServer | None
) -> Iterator[Session]:
    robot = make_robot(choice.name, choice.target, choice.arguments)
    if not isinstance(robot, SimulatedRobot):
        raise RobotError(f"{options.robot}: expected a simulated robot, got a real one")
    tasks = robot.tasks if isinstance(robot, PlaysRecordings) else ()
    policy = _opened(options, robot.spec, times, tasks, server, is_realtime=False)
    with connected(options, robot, policy, times) as session:
        yield played_whole(session, options)


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
