"""The deployment check of a connected robot, before its first command."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from flux_core.robots import RobotSpec

from .checks import judge
from .facts import DeploymentFacts
from .observed import LOOK_S, Observed, SeenDriver, look_at
from .report import DeploymentReport

logger = logging.getLogger("flux.runtime")


def check_connected(
    driver: SeenDriver,
    spec: RobotSpec,
    facts: DeploymentFacts,
    cameras: Sequence[str],
    *,
    accepted: Collection[str] = (),
    is_simulated: bool = False,
    latency_s: float | None = None,
    too_slow: str | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> DeploymentReport:
    """Looks at a robot in real time, and refuses it if it is not the one of the training.

    A simulated robot stands still between two commands, and a bundle without facts says nothing to
    compare with: one glance is enough for these.

    Args:
        driver: of the connected robot; nothing is sent to it.
        spec: of the driver, without limits that were tightened for a run.
        facts: what the bundle says of its training set.
        cameras: those that the policy uses.
        accepted: names of suspicions that do not refuse the robot.
        is_simulated: whether the robot is a simulation.
        latency_s: from looking at the robot to its chunk, if it was measured.
        too_slow: why chunks take too long for real-time chunking, if they do.
        cancelled: ends the look early.

    Raises:
        RobotError: there is a hard suspicion that was not accepted.
    """
    is_long = facts.are_known and not is_simulated
    observed = look_at(
        driver,
        cameras,
        duration_s=LOOK_S if is_long else 0.0,
        is_simulated=is_simulated,
        cancelled=cancelled,
    )
    observed = replace(observed, latency_s=latency_s, too_slow=too_slow)
    return check_observed(spec, facts, observed, accepted=accepted)


def check_observed(
    spec: RobotSpec,
    facts: DeploymentFacts,
    observed: Observed,
    *,
    accepted: Collection[str] = (),
) -> DeploymentReport:
    """Judges what was observed; warns of soft and of accepted suspicions.

    Raises:
        RobotError: there is a hard suspicion that was not accepted.
    """
    report = DeploymentReport.of(judge(facts, spec, observed), accepted)
    for suspicion in report.judged.suspicions:
        if not suspicion.is_hard or suspicion.name in report.accepted:
            is_accepted = suspicion.is_hard
            logger.warning(
                "deployment check%s: %s", " (accepted)" if is_accepted else "", suspicion.line
            )
    report.refuse_suspicious(spec.name)
    return report
