"""Whether the result of a run could be deployed, checked before the first step."""

from __future__ import annotations

import logging

from flux_core.config import Use, component, unbind, uses
from flux_core.errors import ConfigError
from flux_core.transforms import Transform

from .tree import TrainConfig

logger = logging.getLogger("flux.train")


def check_deployable(config: TrainConfig, *, is_quiet: bool = False) -> None:
    """Refuses a config with a robot whose bundle could not carry one of its classes.

    Without a robot (an `inference` section), and for transforms that only training runs, it warns.

    Args:
        config: the whole config.
        is_quiet: whether another process gives the warnings.

    Raises:
        ConfigError: with the place of the class and the remedy.
    """
    for use in uses(unbind(config)):
        if (obstacle := use.obstacle()) is None:
            continue
        if config.inference is None:
            warning = f"flux-export will refuse this run's checkpoint: {obstacle}"
        elif _is_for_training_only(use):
            warning = (
                f"{use.where}: flux-export finds {use.name!r} only if it is run in the directory "
                "of its module"
            )
        else:
            raise ConfigError(
                f"{obstacle} Its checkpoint could not be deployed; to train without a robot, add "
                "--cfg-options inference=none."
            )
        if not is_quiet:
            logger.warning("%s", warning)


def _is_for_training_only(use: Use) -> bool:
    if not use.is_own_training_transform:
        return False
    cls = component(str(use.name), use.where.removesuffix(".type"))
    return issubclass(cls, Transform) and cls.training_only
