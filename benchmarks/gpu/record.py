"""What a stage hands back: figures and checks, on disk as soon as they are known."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Record:
    """The result of a stage, rewritten after each addition, so that a timeout loses little.

    Attributes:
        path: the file.
        has_card: whether the stage runs on a card; without one nothing counts as checked.
        figures: what was measured, by name.
        checks: what was compared with a bound.
    """

    path: Path
    has_card: bool
    figures: dict[str, Any] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._write()

    def add(self, **figures: Any) -> None:
        """Adds figures."""
        self.figures |= {name: as_json(value) for name, value in figures.items()}
        self._write()

    def check(
        self, name: str, found: float, *, least: float | None = None, most: float | None = None
    ) -> None:
        """Compares a number with its bounds; NaN is outside. Without a card, nothing is said."""
        ok = math.isfinite(found)
        ok = ok and (least is None or found >= least) and (most is None or found <= most)
        ok = ok if self.has_card else None
        bounds = {"at_least": least, "at_most": most}
        entry = {"name": name, "found": as_json(found), "ok": ok}
        entry |= {key: value for key, value in bounds.items() if value is not None}
        self.checks.append(entry)
        self._write()

    def _write(self) -> None:
        content = {"has_card": self.has_card, "figures": self.figures, "checks": self.checks}
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(content))
        partial.replace(self.path)


def as_json(value: Any) -> Any:
    """Returns the same with texts in place of numbers that JSON does not have: 'nan', 'inf'."""
    if isinstance(value, dict):
        return {key: as_json(one) for key, one in value.items()}
    if isinstance(value, list):
        return [as_json(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
