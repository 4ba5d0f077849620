"""What a run keeps of its deployment check, and what the user accepted."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from flux_core.errors import RobotError, UsageError

from .checks import NAMES, Judged
from .finding import Finding

SAID_BY_BUNDLES = frozenset(("robot_ranges", "start_pose", "control_rate"))
"""Checks that every bundle with facts allows."""


@dataclass(frozen=True, kw_only=True)
class DeploymentReport:
    """The findings of a run's deployment check.

    Attributes:
        findings: all of them.
        accepted: the names that the user accepts.
    """

    findings: tuple[Finding, ...] = ()
    accepted: tuple[str, ...] = ()

    @classmethod
    def of(cls, judged: Judged, accepted: Collection[str]) -> DeploymentReport:
        """Keeps what was judged."""
        return cls(findings=judged.findings, accepted=tuple(accepted))

    @property
    def judged(self) -> Judged:
        """The findings, to ask for suspicions."""
        return Judged(findings=self.findings)

    def as_data(self) -> dict[str, object]:
        """Returns the suspicions, what could not be judged and what was accepted, as data."""
        overridden = [
            s.as_data() for s in self.judged.suspicions if s.is_hard and s.name in self.accepted
        ]
        return {
            "suspicions": [suspicion.as_data() for suspicion in self.judged.suspicions],
            "accepted": overridden,
            "not_judged": {f.name: f.found for f in self.findings if not f.is_judged},
        }

    def line(self) -> str:
        """Returns what an operator should read before the robot moves."""
        judged = {finding.name for finding in self.findings if finding.is_judged}
        suspected = dict.fromkeys(finding.name for finding in self.judged.suspicions)
        if not judged & SAID_BY_BUNDLES:
            return (
                "deployment check: this bundle does not say what it was trained on; train again "
                "for one that does"
            )
        open_names = dict.fromkeys(
            f.name for f in self.findings if not f.is_judged and f.name not in judged
        )
        left = f"; not judged: {', '.join(open_names)}" if open_names else ""
        found = f"suspected: {', '.join(suspected)}" if suspected else "nothing suspected"
        return f"deployment check: {len(judged)} checks, {found}{left}"

    def refuse_suspicious(self, robot: str) -> None:
        """Refuses a robot with a hard suspicion that was not accepted.

        Raises:
            RobotError: the first one, and the names of the others.
        """
        refusing = self.judged.refusing(self.accepted)
        if not refusing:
            return
        first, names = refusing[0], dict.fromkeys(finding.name for finding in refusing)
        others = [name for name in names if name != first.name]
        more = f" Also suspected: {', '.join(others)}." if others else ""
        accept = " ".join(f"--accept {name}" for name in names)
        raise RobotError(
            f"{robot}: deployment check: {first.line}.{more} If it is right as it is: {accept}"
        )


def check_accepted(names: Collection[str]) -> tuple[str, ...]:
    """Returns the names of `--accept`, each once.

    Raises:
        UsageError: there is no such check.
    """
    for name in names:
        if name not in NAMES:
            raise UsageError(f"--accept: expected one of {', '.join(NAMES)}, got {name!r}")
    return tuple(dict.fromkeys(names))
