"""One line of the doctor's report, and the report as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the doctor's report.

    Attributes:
        name: what was checked.
        ok: whether it is as it should be.
        found: what was found.
        fix: what to do if it is not ok; may be empty.
        required: whether flux-runtime cannot work without it; all other checks are informative.
        section: the heading under which it is printed; may be empty.
    """

    name: str
    ok: bool
    found: str
    fix: str = ""
    required: bool = False
    section: str = ""

    def to_json(self) -> dict[str, object]:
        """Returns the check as plain data."""
        return {
            "name": self.name,
            "ok": self.ok,
            "found": self.found,
            "fix": "" if self.ok else self.fix,
            "required": self.required,
            "section": self.section,
        }


def format_checks(checks: Sequence[Check]) -> str:
    """Returns the checks as text, with the fix below each one that failed."""
    lines: list[str] = []
    for section, group in groupby(checks, key=lambda check: check.section):
        members = list(group)
        width = max(len(check.name) for check in members)
        lines += ["", section] if section else []
        for check in members:
            mark = "ok  " if check.ok else ("FAIL" if check.required else "note")
            lines.append(f"{mark}  {check.name:<{width}}  {check.found}")
            if not check.ok and check.fix:
                lines.append(f"      {'':<{width}}  -> {check.fix}")
    return "\n".join(lines)
