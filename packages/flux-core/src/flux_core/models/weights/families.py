"""Which networks' checkpoints a file may hold: those of the registered networks."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import cast

from ..._components import MODELS
from ...config import component
from ...errors import CheckpointError
from ..flow.checkpoints import CheckpointFamily
from ..flow.policy import FlowPolicy


@cache
def families() -> tuple[CheckpointFamily, ...]:
    """Returns the families of all our networks, each once."""
    networks = (cast("type[FlowPolicy]", component(name)) for name in MODELS)
    return tuple(dict.fromkeys(network.checkpoints for network in networks))


def formats() -> tuple[str, ...]:
    """Returns the projects whose checkpoints can be read."""
    return tuple(dict.fromkeys(form for family in families() for form in family.formats))


def recognised(
    names: Collection[str], *, is_ours: bool, where: str
) -> tuple[CheckpointFamily, str]:
    """Returns the family of weights with these names, and the project that wrote them.

    Raises:
        CheckpointError: no known project did.
    """
    for family in families():
        form = family.recognise(names, is_ours=is_ours)
        if form is not None:
            return family, form
    raise CheckpointError(
        f"{where}: expected weights of {', '.join(formats())}, got tensors like "
        f"{', '.join(sorted(names)[:3])}"
    )
