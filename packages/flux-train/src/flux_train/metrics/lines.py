"""A line of `metrics.jsonl`; without torch, for the report reads them too."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from flux_core.command_line import finite


def line_of(values: Mapping[str, object]) -> str:
    """One JSON object and a newline; null for a number that is not finite."""
    return json.dumps(finite(values), allow_nan=False) + "\n"


def parsed_line(line: bytes) -> dict[str, Any] | None:
    """A line with a step; None if it is none, as the last may be that a run was writing."""
    try:
        values = json.loads(line)
    except ValueError:
        return None
    step = values.get("step") if isinstance(values, dict) else None
    return values if isinstance(step, int | float) and math.isfinite(step) else None
