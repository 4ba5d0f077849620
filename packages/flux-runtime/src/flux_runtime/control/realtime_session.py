"""A robot in real time: its driver's process, its control thread, and the checks before a start."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.command_line import StoppedBySignal
from flux_core.errors import FluxError, RobotError, UsageError
from flux_core.robots import MotionLimits

from ..chunking import MODE_WITHOUT_RTC, Chunking
from ..deployment import (
    LOOK_S,
    SLOW_START_S,
    SLOW_START_SPEED,
    DeploymentFacts,
    DeploymentReport,
    FirstMotions,
    Observed,
    check_deployment,
    look_at,
)
from ..engines.core import load_core
from ..realtime import (
    DriverCancelled,
    DriverProcess,
    RealtimeSettings,
    core_settings,
    granted_text,
    realtime_settings,
)
from ..realtime.inference_thread import InferenceThread
from ..robots import is_recording
from .latency import StageTimes
from .policy_source import ChunkSource, HoldSource, PolicySource
from .preflight import Excursion, check_binary, excursions, motion_limits_in_force
from .realtime_inference import ChunkAnswerer, RobotView
from .session import (
    OpenedPolicy,
    RunOptions,
    SessionFacts,
    chunking_of,
    default_prompt,
    gripper_closing,
)

logger = logging.getLogger(__name__)

Confirm = Callable[[str, Callable[[], bool]], bool]
"""Asks the operator a question. The second argument says that the operator has stopped the run."""


@dataclass(frozen=True, kw_only=True)
class RealtimeSession(SessionFacts):
    """A connected robot whose control thread is idle; the preflight has found nothing wrong.

    Attributes:
        driver: the robot's driver, connected.
        loop: the `_core.RealtimeLoop`.
        limits: complete, with their sources.
        settings: of the loop.
        signals: the `_core.StopSignals` that the loop reads.
        answerer: makes chunks on the inference thread.
        confirm: asks the operator before the robot is moved back to its limits.
    """

    driver: DriverProcess
    loop: Any
    limits: MotionLimits
    settings: RealtimeSettings
    signals: Any
    answerer: ChunkAnswerer
    confirm: Confirm
    clock = "monotonic"
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def first_motions(self) -> FirstMotions | None:
        """Returns what watches the first episode; None without a policy, and for recordings, whose
        states do not follow commands."""
        if self.bundle is None or is_recording(self.options.robot):
            return None
        facts = DeploymentFacts.of(self.bundle.manifest, self.bundle.config)
        accepted = self.options.accepted
        return FirstMotions(facts, self.spec, accepted) if facts.are_known else None

    def next_number(self) -> int:
        """Returns the number of the next session, above all before."""
        return next(self._numbers)

    def is_signalled(self) -> bool:
        """Whether the operator has sent a signal."""
        return self.signals.signal != 0

    def raise_if_signalled(self) -> None:
        """Raises StoppedBySignal if the operator has sent a signal."""
        if self.is_signalled():
            raise StoppedBySignal(self.signals.signal)

    def measured_state(self) -> NDArray[np.float32]:
        """Returns the newest state; for this thread only while no session runs."""
        state, _, _ = self.driver.observe(())
        return state

    @property
    def command_hz(self) -> float:
        """Commands per second."""
        return self.settings.command_hz

    @property
    def is_real(self) -> bool:
        """Whether the robot is a real one."""
        return self.driver.simulation is None

    @property
    def first_delay(self) -> int | None:
        """With real-time chunking, the steps that the robot is expected to execute while the first
        chunks are inferred, as a delay that the policy can use."""
        if self.chunking.rtc is None:
            return None
        return delay_of(self.chunking, self.settings, self.source.action_horizon)

    def with_task(self, task: str) -> RealtimeSession:
        """Returns the same session for another task, after checking that the policy takes it; only
        while no session of the control thread runs.

        Raises:
            FluxError: the policy cannot use the task, or an observation is missing.
        """
        if isinstance(self.source, PolicySource):
            self.source.check_task(task)
            observation, _, _ = replace(self.answerer.view, prompt=task).observe()
            self.source.check_observation(observation, self.spec)
        return replace(self, prompt=task)

    def outside_limits(self) -> list[Excursion]:
        """Returns the joints that stand outside a limit and may be led back.

        Raises:
            RobotError: a joint is beyond the start tolerance, or nobody has asked for the return.
        """
        found = excursions(self.limits, self.measured_state())
        if found and not self.options.realtime_options.return_to_limits:
            raise RobotError(
                f"{self.spec.name}: start pose: {found[0].text(self.spec)}. Move the robot, or add "
                f"--return-to-limits to have it moved back slowly"
            )
        return found

    def confirms_return(self) -> bool:
        """Asks the operator whether joints outside their limits may be led back.

        Returns:
            Whether a joint has to be led back.

        Raises:
            RobotError: the operator has not agreed.
        """
        found = self.outside_limits()
        if not found:
            return False
        motions = "; ".join(joint.motion_text(self.spec) for joint in found)
        if not self.confirm(f"Move {motions}?", self.is_signalled):
            self.raise_if_signalled()
            raise RobotError(
                f"{self.spec.name}: start pose: the motion back to the limits was not confirmed. "
                f"Move the robot to within its limits"
            )
        return True

    @property
    def scheduling(self) -> dict[str, Mapping[str, Any]]:
        """What was asked of the machine for the control thread and the driver, and what it gave."""
        return {**self.loop.scheduling, "driver_niceness": self.driver.niceness}

    @property
    def staleness_s(self) -> dict[str, float]:
        """The largest ages: of a state, a camera's frame, and what a command is made from."""
        return {
            "state": self.settings.max_state_age_s,
            "frame": self.settings.max_frame_age_s,
            "observation": self.settings.max_observation_age_s(self.source.action_horizon),
        }

    def describe(self) -> dict[str, object]:
        """Returns the facts that do not depend on the outcome of the episodes."""
        return super().describe() | {
            "limits": self.limits.as_data(),
            "scheduling": self.scheduling,
            "staleness": self.staleness_s,
            "max_observation_age_s": self.staleness_s["observation"],
            "stop_category": self.settings.stop_category,
            "hold_for_s": self.settings.hold_for_s,
            "chunk_hold_for_s": self.settings.chunk_hold_for_s or self.settings.hold_for_s,
            **self._rtc_data(),
        }

    def _rtc_data(self) -> dict[str, object]:
        rtc: Any = self.chunking.as_data()["rtc"]
        if rtc is None:
            return {}
        first = {"first_latency_ms": 1e3 * self.settings.first_latency_s}
        return {"rtc": rtc | first | {"first_delay": self.first_delay}}

    def lines(self) -> list[str]:
        """Returns what an operator should read before the robot moves."""
        ages = self.staleness_s
        return [
            self._mode_line(),
            self._rates_line(),
            *self.limits.lines(),
            *([self.deployment.line()] if self.deployment else []),
            *(
                f"scheduling: {name.replace('_', ' ')}: {granted_text(name, entry)}"
                for name, entry in self.scheduling.items()
            ),
            f"staleness: hold if the state is older than {ages['state']:g} s or a frame older than "
            f"{ages['frame']:g} s; no command from an observation older than "
            f"{ages['observation']:g} s",
            *self._server_lines(),
            f"stop: category {self.settings.stop_category} (IEC 60204-1), after a hold of more "
            f"than {self.settings.hold_for_s:g} s, a fault or a signal",
        ]

    def _server_lines(self) -> list[str]:
        remote, bundle = self.options.remote, self.bundle
        if remote is None or bundle is None:
            return []
        return [
            f"server: {bundle.where}; while it is away the robot holds, for at most "
            f"{remote.reconnect_for_s:g} s, and goes on by itself"
        ]

    def _mode_line(self) -> str:
        if self.chunking.rtc is None:
            return self.chunking.line()
        return (
            f"{self.chunking.line()}; a chunk takes {1e3 * self.settings.first_latency_s:.0f} ms, "
            f"so the delay begins with {self.first_delay} steps"
        )

    def _rates_line(self) -> str:
        line = f"rates: {self.spec.control_hz:g} steps of a chunk per second at full speed"
        line += f", executed at {self.speed:g} of it" if self.speed != 1 else ""
        is_between = self.command_hz != self.spec.control_hz
        between = " on a cubic curve through the steps" if is_between else ""
        return f"{line}; {self.command_hz:g} commands per second{between}"


@contextmanager
def connected_realtime(
    options: RunOptions,
    driver: DriverProcess,
    policy: OpenedPolicy | None,
    times: StageTimes,
    confirm: Confirm = lambda question, cancelled: True,
) -> Iterator[RealtimeSession]:
    """Connects the robot, checks it and the policy, and closes both at the end.

    From here to the end, SIGINT, SIGTERM and SIGHUP stop the robot instead of this process, also
    if they were ignored until now.

    Raises:
        FluxError: the robot or the policy cannot be used; no command has been sent.
        StoppedBySignal: the operator stopped the run while the robot was being connected.
    """
    if options.inference_delay is not None:
        logger.warning("--inference-delay: has no effect in real time, where it is measured")
    source = policy.source if policy else HoldSource(driver.spec)
    wanted = chunking_of(options, policy, is_real=driver.simulation is None)
    config = policy.bundle.config if policy else {}
    limits = motion_limits_in_force(config, driver.spec, options.realtime_options.tightening)
    closing = gripper_closing(policy.bundle if policy else None, limits.spec)
    check_binary(source.binary_mask, limits.spec, closing)
    settings = _settings(options, policy, source, wanted, limits)
    task = driver.simulation.task if driver.simulation else None
    prompt = options.task or default_prompt(task, policy.bundle if policy else None)
    with load_core().StopSignals() as signals, _closing(driver):
        _connect(driver, source, limits, settings, signals)
        view = RobotView(driver=driver, source=source, spec=limits.spec, prompt=prompt)
        with _interruptible(policy, signals):
            _check_first_look(view, policy)
            chunking, settings = with_latency(options, wanted, settings, view)
        deployment = None
        if policy is not None:
            facts = DeploymentFacts.of(policy.manifest, config)
            too_slow = chunking.reason if chunking.mode != wanted.mode else None
            deployment = _check_deployment(
                options, driver, source.cameras, facts, settings, signals, too_slow
            )
            settings = _beginning_slowly(settings, facts, driver)
        loop = _make_loop(
            driver, source.loop_arguments(settings.continuation), limits, settings, signals
        )
        answerer = ChunkAnswerer(loop=loop, view=view, times=times)
        session = RealtimeSession(
            options=options.resolved(driver.spec, is_real=driver.simulation is None),
            spec=limits.spec,
            source=source,
            bundle=policy.bundle if policy else None,
            prompt=prompt,
            times=times,
            golden_max_abs_error=policy.golden_max_abs_error if policy else None,
            chunking=chunking,
            driver=driver,
            loop=loop,
            limits=limits,
            settings=settings,
            signals=signals,
            answerer=answerer,
            confirm=confirm,
            deployment=deployment,
        )
        with _started(session):
            yield session


@contextmanager
def _started(session: RealtimeSession) -> Iterator[None]:
    """Starts the inference thread of a session, and ends both of its threads afterwards."""
    try:
        session.outside_limits()
        session.raise_if_signalled()
        inference = InferenceThread(session.loop, session.answerer)
        try:
            yield
        finally:
            inference.close()
    finally:
        session.loop.close()


def _settings(
    options: RunOptions,
    policy: OpenedPolicy | None,
    source: PolicySource | HoldSource,
    chunking: Chunking,
    limits: MotionLimits,
) -> RealtimeSettings:
    realtime, remote = options.realtime_options, options.remote
    if remote is not None and remote.reconnect_for_s < realtime.hold_for_s:
        shorter_s = remote.reconnect_for_s
        logger.warning(
            "--hold-for %g: no hold may last longer than --reconnect-for %g",
            *(realtime.hold_for_s, shorter_s),
        )
        realtime = replace(realtime, hold_for_s=shorter_s)
    return realtime_settings(
        realtime,
        limits,
        execution_horizon=source.execution_horizon,
        action_horizon=source.action_horizon,
        mode=chunking.mode,
        cameras=source.cameras,
        continuation=chunking.continuation(),
        grippers=gripper_closing(policy.bundle if policy else None, limits.spec),
        chunk_hold_for_s=0.0 if remote is None else remote.reconnect_for_s,
    )


def _connect(
    driver: DriverProcess,
    source: ChunkSource,
    limits: MotionLimits,
    settings: RealtimeSettings,
    signals: Any,
) -> None:
    try:
        driver.connect(
            source.cameras,
            cancelled=lambda: signals.signal != 0,
            limits=limits.spec,
            command_hz=settings.command_hz,
            binary_mask=source.binary_mask,
        )
    except DriverCancelled as error:
        raise StoppedBySignal(signals.signal) from error


def _check_deployment(
    options: RunOptions,
    driver: DriverProcess,
    cameras: Sequence[str],
    facts: DeploymentFacts,
    settings: RealtimeSettings,
    signals: Any,
    too_slow: str | None,
) -> DeploymentReport:
    """Compares the robot with what the bundle says of its training set.

    A simulated robot stands still between two commands, and a bundle without facts has nothing to
    compare with. For both, a single observation is enough.
    """
    is_simulated = driver.simulation is not None

    def look() -> Observed:
        observed = look_at(
            driver,
            cameras,
            duration_s=LOOK_S if facts.are_known and not is_simulated else 0.0,
            is_simulated=is_simulated,
            cancelled=lambda: signals.signal != 0,
        )
        return replace(observed, latency_s=settings.first_latency_s or None, too_slow=too_slow)

    can_reset = is_simulated and not is_recording(options.robot)
    return check_deployment(
        driver.spec,
        facts,
        look,
        accepted=options.accepted,
        at_start=(lambda: driver.reset(options.seed)) if can_reset else None,
    )


def _beginning_slowly(
    settings: RealtimeSettings, facts: DeploymentFacts, driver: DriverProcess
) -> RealtimeSettings:
    """Lets a real robot begin slowly while its first motions are watched."""
    is_watched = facts.are_known and driver.simulation is None
    if not is_watched or driver.spec.is_commanded_by_differences:
        return settings
    return replace(settings, slow_start_s=SLOW_START_S, slow_start_speed=SLOW_START_SPEED)


@contextmanager
def _interruptible(policy: OpenedPolicy | None, signals: Any) -> Iterator[None]:
    """Lets a signal end the wait for a policy, from here on."""
    if policy is not None:
        policy.source.end_waiting_if(lambda: signals.signal != 0)
    try:
        yield
    except FluxError as error:
        if signals.signal != 0:
            raise StoppedBySignal(signals.signal) from error
        raise


def _check_first_look(view: RobotView, policy: OpenedPolicy | None) -> None:
    """Checks one observation, and whether the network can use it.

    Raises:
        RobotError: the driver's data cannot be used.
    """
    observation, _, _ = view.observe()
    if policy is not None:
        policy.source.check_observation(observation, view.spec)


def with_latency(
    options: RunOptions, chunking: Chunking, settings: RealtimeSettings, view: RobotView
) -> tuple[Chunking, RealtimeSettings]:
    """Measures how long a chunk takes, where it matters: with real-time chunking.

    Returns:
        The settings with the latency. If nobody has asked for real-time chunking, and chunks take
        too long for it, then another mode, with the reason.

    Raises:
        UsageError: chunks take too long for the real-time chunking that the options ask for.
    """
    if chunking.rtc is None:
        return chunking, settings
    latency_s = view.first_latency_s(settings.continuation) + 1 / settings.command_hz
    settings = replace(settings, first_latency_s=latency_s)
    try:
        delay_of(chunking, settings, view.source.action_horizon)
    except UsageError as error:
        if options.mode is not None or options.changes.rtc:
            raise
        chunking = replace(chunking, mode=MODE_WITHOUT_RTC, reason=str(error), rtc=None)
        settings = replace(settings, mode=chunking.mode, continuation={}, first_latency_s=0.0)
    return chunking, settings


def delay_of(chunking: Chunking, settings: RealtimeSettings, action_horizon: int) -> int:
    """Returns the delay, in steps of a chunk, with which a run with real-time chunking begins.

    Raises:
        UsageError: no delay that the policy can use covers the latency.
    """
    rows = settings.first_latency_s * settings.control_hz * settings.speed
    return chunking.require_delay(
        math.ceil(rows - 1e-9),  # as in the loop
        execution_horizon=settings.execution_horizon,
        action_horizon=action_horizon,
        what=f"--mode rtc: a chunk takes {1e3 * settings.first_latency_s:.0f} ms",
    )


@contextmanager
def _closing(driver: DriverProcess) -> Iterator[None]:
    try:
        yield
    finally:
        driver.close()


def _make_loop(
    driver: DriverProcess,
    policy: Mapping[str, Any],
    limits: MotionLimits,
    settings: RealtimeSettings,
    signals: Any,
) -> Any:
    """Starts the control thread, which is idle until a session starts."""
    core = load_core()
    setup = realtime_loop_setup(limits, settings)
    return core.RealtimeLoop(
        link=driver.link,
        **policy,
        limits=core.SafetyLimits(**setup["limits"]),
        settings=core_settings(setup["settings"]),
        signals=signals,
    )


def realtime_loop_setup(limits: MotionLimits, settings: RealtimeSettings) -> dict[str, Any]:
    """Returns the `limits` and the `settings` of a `RealtimeLoop`, as plain data."""
    names = ("lower", "upper", "max_velocity", "max_acceleration", "max_jerk")
    values = settings.as_data()
    values["cameras"] = list(range(len(settings.cameras)))  # the link has no others
    return {"limits": {name: getattr(limits, name) for name in names}, "settings": values}
