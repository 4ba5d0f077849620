"""A checkpoint's transforms that only training runs, named by the path of their class."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flux_core.command_line import with_directories
from flux_core.config import Use, component, own_training_transforms
from flux_core.errors import ExportError
from flux_core.transforms import Transform


def check_own_training_transforms(
    config: Mapping[str, Any], checkpoint: Path, folder: Path
) -> dict[str, str]:
    """Checks that the robot needs none of a config's own training transforms.

    A class is imported only from `folder`, where the user has put its module. Modules anywhere else
    are not imported for a checkpoint.

    Returns:
        The place of each -> the path of its class.

    Raises:
        ExportError: a class is not in `folder`, or the robot would need it.
    """
    found: dict[str, str] = {}
    for use in own_training_transforms(config):
        _check_training_only(use, f"{checkpoint}: config: {use.where}", folder)
        found[use.where.removesuffix(".type")] = str(use.name)
    return found


def _check_training_only(use: Use, where: str, folder: Path) -> None:
    name = str(use.name)
    with with_directories(folder):
        if not _is_in(folder, name):
            raise ExportError(
                f"{where}: {name!r} is the path of a class, and its module is not in the current "
                "directory. Run flux-export in its directory, or register it as an entry point of "
                "flux.components."
            )
        cls = component(name, where.removesuffix(".type"))
    if not (issubclass(cls, Transform) and cls.training_only):
        raise ExportError(
            f"{where}: {name!r} is the path of a class, and not of a transform that is "
            "training_only, so the robot needs it. Register it as an entry point of "
            "flux.components."
        )


def _is_in(folder: Path, name: str) -> bool:
    """Whether the module of a class would be imported from this directory; imports nothing."""
    package = name.partition(":")[0].partition(".")[0]
    try:
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
    except ValueError:  # __main__ and the like have no file of their own
        return False
    if spec is None:
        return False
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    here = folder.resolve()
    return any(Path(place).resolve().parent in (here, here / package) for place in places)
