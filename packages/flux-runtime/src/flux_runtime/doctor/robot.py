"""`flux-runtime doctor --robot R --bundle B`: looks at a robot for a second; sends nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from flux_core.errors import FluxError, UsageError

from ..control.latency import StageTimes
from ..control.realtime_inference import RobotView
from ..control.session import (
    OpenedPolicy,
    RunOptions,
    chunking_of,
    default_prompt,
    open_policy,
)
from ..deployment import DeploymentFacts, Finding, judge, look_at
from ..deployment.observed import LOOK_S
from ..realtime import DriverProcess
from ..remote.opening import PolicyServer, policy_server
from ..robots import RobotChoice, choose_robot
from .check import Check

SECTION = "deployment"


def diagnose_robot(options: RunOptions) -> list[Check]:
    """Connects a robot, looks at it, and compares it with what its bundle was trained on.

    A robot that cannot be connected, or that the bundle does not fit, is a check that failed.

    Args:
        options: of a run; without a bundle, only what needs none is checked.
    """
    checks: list[Check] = []
    try:
        with policy_server(options) as server:
            described = server.bundle if server is not None else None
            choice = choose_robot(options.robot_request(described))
            for line in choice.lines:
                checks.append(_check("robot", line))
            for check in _connected(options, choice, server):
                checks.append(check)
    except UsageError:
        raise
    except FluxError as error:
        checks.append(_failed(f"robot {options.robot}", error))
    return checks


def _connected(
    options: RunOptions, choice: RobotChoice, server: PolicyServer | None
) -> Iterator[Check]:
    with DriverProcess.start(
        choice.name, target=choice.target, arguments=choice.arguments, python=choice.python
    ) as driver:
        spec = driver.spec
        policy = None
        if server is not None:
            policy = server.opened(options, spec, StageTimes(), is_realtime=True)
        elif options.policy == "bundle":
            policy = open_policy(options, spec, StageTimes())
        cameras = policy.source.cameras if policy else spec.cameras
        driver.connect(cameras)
        if driver.simulation is not None:
            driver.reset(options.seed)
        found = f"{spec.action_dim} joints, {spec.control_hz:g} Hz, {', '.join(cameras) or '-'}"
        yield _check(f"robot {choice.name}", found)
        facts = DeploymentFacts()
        latency_s = None
        if policy is not None:
            facts = DeploymentFacts.of(policy.manifest, policy.bundle.config)
            latency_s = _latency_s(options, driver, policy)
        observed = look_at(
            driver, cameras, duration_s=LOOK_S, is_simulated=driver.simulation is not None
        )
        observed = replace(observed, latency_s=latency_s)
        for finding in judge(facts, spec, observed).findings:
            yield _of(finding, options.accepted)


def _latency_s(options: RunOptions, driver: DriverProcess, policy: OpenedPolicy) -> float:
    """Measures how long a chunk takes; what it would be is not sent."""
    task = driver.simulation.task if driver.simulation else None
    prompt = options.task or default_prompt(task, policy.bundle)
    view = RobotView(driver=driver, source=policy.source, spec=driver.spec, prompt=prompt)
    chunking = chunking_of(options, policy, is_real=driver.simulation is None)
    return view.first_latency_s(chunking.continuation())


def _of(finding: Finding, accepted: tuple[str, ...]) -> Check:
    is_accepted = finding.is_hard and finding.name in accepted
    found = f"{finding.found} (accepted)" if is_accepted else finding.found
    return Check(
        name=finding.name,
        ok=finding.is_ok,
        found=found,
        fix=finding.fix,
        required=finding.is_hard and not is_accepted,
        section=SECTION,
    )


def _check(name: str, found: str) -> Check:
    return Check(name=name, ok=True, found=found, section=SECTION)


def _failed(name: str, error: FluxError) -> Check:
    found = " ".join(str(error).split())
    return Check(name=name, ok=False, found=found, required=True, section=SECTION)
