"""Of a network with weights for several embodiments, a bundle holds those of its robot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flux_core.agreement import datasets_of
from flux_core.config import unbind
from flux_core.deployment import InferenceRunner
from flux_core.errors import ExportError
from flux_core.models import FlowPolicy


def keep_own_embodiment(
    model: FlowPolicy, inference: InferenceRunner, config: Mapping[str, Any], where: str
) -> Mapping[str, Any]:
    """Drops the weights of other robots' embodiments, in place.

    Args:
        model: the loaded network.
        inference: the robot's section.
        config: the checkpoint's config.
        where: the checkpoint, for messages.

    Returns:
        The config, whose network has one embodiment.

    Raises:
        ExportError: it is not known which embodiment the robot is.
    """
    if model.config.embodiments == 1:
        return config
    model.keep_embodiment(_embodiment_of(inference, config, where))
    return {**config, "model": unbind(model.config)}


def _embodiment_of(inference: InferenceRunner, config: Mapping[str, Any], where: str) -> int:
    """Returns the number of the robot's section, or that of the data with its statistics."""
    if inference.dataset.embodiment is not None:
        return inference.dataset.embodiment
    groups = datasets_of(config)
    group = inference.statistics_group(groups)
    found = {dataset.embodiment for dataset in groups[group]}
    embodiment = found.pop() if len(found) == 1 else None
    if embodiment is None:
        raise ExportError(
            f"{where}: inference.dataset.embodiment_id: expected the embodiment of robot "
            f"{inference.spec.name}, because the data of group {group!r} have several or none, got "
            "none. Set it in the robot's section of a config, and name that with --config"
        )
    return embodiment
