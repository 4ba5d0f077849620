"""Which weights a run's held-out figures describe: those that are deployed, or others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .facts import RunFacts, section
from .history import OF_AVERAGE, History, Table


def weights_kind(validation: Table) -> str | None:
    """'average' or 'current', of the newest validation; None without one."""
    if not len(validation):
        return None
    return "average" if _of_average(validation)[-1] else "current"


def same_weights(validation: Table) -> NDArray[np.bool_]:
    """Which validations are of the same kind of weights as the newest, (N,)."""
    kinds = _of_average(validation)
    return kinds == kinds[-1:]


def held_out_weights(history: History, facts: RunFacts) -> str:
    """Returns whose the held-out figures are, in words."""
    decay = section(facts.config, "runner").get("ema_decay") or 0
    if weights_kind(history.validation) == "average":
        return f"moving average (decay {decay:g}), as deployed" if decay else "moving average"
    return "current; the moving average is deployed" if decay else "current, as deployed"


def _of_average(validation: Table) -> NDArray[np.bool_]:
    # A line that does not say is from a version that validated the current weights.
    return validation.scalar(OF_AVERAGE) == 1.0
