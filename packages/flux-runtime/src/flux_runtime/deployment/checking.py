"""The deployment check of a connected robot, before its first command."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from flux_core.robots import RobotSpec

from .checks import judge
from .facts import DeploymentFacts
from .observed import Observed
from .report import DeploymentReport

logger = logging.getLogger("flux.runtime")


def check_deployment(
    spec: RobotSpec,
    facts: DeploymentFacts,
    look: Callable[[], Observed],
    *,
    accepted: Collection[str] = (),
    may_refuse: bool = True,
    at_start: Callable[[], None] | None = None,
) -> DeploymentReport:
    """Looks at a robot, and refuses it if it is not the one of the training.

    Soft and accepted suspicions are logged as warnings.

    Args:
        spec: of the driver, without limits that were tightened for a run.
        facts: what the bundle says of its training set.
        look: looks at the robot.
        accepted: names of suspicions that do not refuse the robot.
        may_refuse: whether hard suspicions refuse it, or are warnings, too: a simulation on
            simulated time breaks nothing.
        at_start: lets a simulated robot begin an episode. Before that it may show anything, so it
            is only suspected if it still looks wrong then.

    Raises:
        RobotError: there is a hard suspicion that was not accepted.
    """
    judged = judge(facts, spec, look())
    if judged.suspicions and at_start is not None:
        at_start()
        judged = judge(facts, spec, look())
    report = DeploymentReport.of(judged, accepted)
    for suspicion in judged.suspicions:
        if suspicion.is_hard and suspicion.name in report.accepted:
            logger.warning("deployment check (accepted): %s", suspicion.line)
        elif not suspicion.is_hard or not may_refuse:
            logger.warning("deployment check: %s", suspicion.line)
    if may_refuse:
        report.refuse_suspicious(spec.name)
    return report
