"""Writes and parses a line of `metrics.jsonl`; imports no torch, as the report uses it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from flux_core.command_line import finite


def line_of(values: Mapping[str, object]) -> str:
    """One JSON object and a newline; numbers that are not finite become null."""
    return json.dumps(finite(values), allow_nan=False) + "\n"


def parsed_line(line: bytes) -> dict[str, Any] | None:
    """Parses a line; None if it holds no step, like a last line that was cut off."""
    try:
        values = json.loads(line)
    except ValueError:
        return None
    step = values.get("step") if isinstance(values, dict) else None
    return values if isinstance(step, int | float) and math.isfinite(step) else None
