"""What a check of the deployment found."""

from __future__ import annotations

from dataclasses import dataclass

NOT_IN_BUNDLE = "not in this bundle"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check.

    Attributes:
        name: of the check; `--accept` takes it.
        found: what was found and what was expected, with both numbers.
        is_ok: whether there is nothing to suspect.
        fix: what to do about a suspicion.
        is_hard: whether a suspicion refuses the run.
        is_judged: whether enough is known for a judgement.
    """

    name: str
    found: str
    is_ok: bool = True
    fix: str = ""
    is_hard: bool = False
    is_judged: bool = True

    @property
    def line(self) -> str:
        """The suspicion in one line: what was found, and what to do."""
        return (
            f"{self.name}: {self.found}. {self.fix}" if self.fix else f"{self.name}: {self.found}"
        )

    def as_data(self) -> dict[str, object]:
        """Returns the finding as plain data."""
        return {
            "name": self.name,
            "ok": self.is_ok,
            "found": self.found,
            "fix": self.fix,
            "hard": self.is_hard,
            "judged": self.is_judged,
        }


def fine(name: str, found: str) -> Finding:
    """Returns that a check has nothing to suspect."""
    return Finding(name=name, found=found)


def unknown(name: str, why: str = NOT_IN_BUNDLE) -> Finding:
    """Returns that a check cannot judge."""
    return Finding(name=name, found=why, is_judged=False)


def soft(name: str, found: str, fix: str) -> Finding:
    """Returns a suspicion that only warns."""
    return Finding(name=name, found=found, fix=fix, is_ok=False)


def hard(name: str, found: str, fix: str) -> Finding:
    """Returns a suspicion that refuses the run."""
    return Finding(name=name, found=found, fix=fix, is_ok=False, is_hard=True)
