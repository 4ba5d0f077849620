"""Which weights a run's held-out figures describe: those that are deployed, or others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .facts import RunFacts, section
from .history import OF_AVERAGE, History, Table


def stated_weights(validation: Table) -> dict[str, str]:
    """`validation_weights`: 'average' or 'current', if the newest validation says so."""
    newest = validation.scalar(OF_AVERAGE)[-1:]
    if not np.isfinite(newest).any():
        return {}
    return {"validation_weights": "average" if newest[0] else "current"}


def same_weights(validation: Table) -> NDArray[np.bool_]:
    """Which validations are of the same kind of weights as the newest, (N,)."""
    kinds = _of_average(validation)
    return kinds == kinds[-1:]


def held_out_weights(history: History, facts: RunFacts) -> str:
    """Returns whose the held-out figures are, in words."""
    decay = section(facts.config, "runner").get("ema_decay") or 0
    if _of_average(history.validation)[-1:].any():
        return f"moving average (decay {decay:g}), as deployed" if decay else "moving average"
    return "current; the moving average is deployed" if decay else "current, as deployed"


def _of_average(validation: Table) -> NDArray[np.bool_]:
    # A line that does not say is from a version that validated the current weights.
    return validation.scalar(OF_AVERAGE) == 1.0
