"""The robot's cameras beside those of training: the same ones, in the same order."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace

from ..deployment import ObservationTransforms
from ..errors import ConfigError
from .finding import finding
from .trained import TrainedDataset

logger = logging.getLogger("flux.config")

_COMMON = {
    *("cam", "camera", "image", "images", "img", "observation", "obs", "rgb", "color", "view"),
    "video",
}
"""Parts of a camera's name that do not tell it from others."""


def check_camera_names(names: Sequence[str], where: str) -> None:
    """Refuses no camera, and one camera twice.

    Raises:
        ConfigError: the message begins with `where`.
    """
    if not names:
        raise ConfigError(f"{where}: expected at least one camera, got none")
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise ConfigError(
            f"{where}: expected each camera once, as the robot has it, got {twice[0]!r} twice. "
            "num_padding_imgs pads a robot with fewer cameras than others"
        )


def kept_cameras(
    trained: TrainedDataset,
    dataset: ObservationTransforms,
    known: Sequence[str],
    path: str,
    *,
    is_bundle: bool,
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Compares the cameras, whose columns may have names of their own.

    A robot that lacks some of training's cameras says so with `trained_cameras`. Bundles of earlier
    versions did not record that; their cameras only have to be in the order of training.

    Args:
        trained: the training section's dataset.
        dataset: the robot's observations.
        known: all cameras of the robot.
        path: the dotted path of `dataset`.
        is_bundle: whether they are of a bundle.

    Returns:
        The positions of the robot's cameras among those of training, and what contradicts.
    """
    robots, columns = dataset.img_keys, trained.cameras
    everything = dataset.trained_cameras or robots
    if columns is None:
        return tuple(everything.index(name) for name in robots), ()
    if is_bundle and len(everything) < len(columns):
        found = _in_order(everything, columns)
        if found is not None:
            return found, ()
    field = "trained_cameras" if dataset.trained_cameras else "img_keys"
    if len(everything) != len(columns) or _is_other(everything, columns, known):
        text = finding(
            f"{path}.{field}",
            f"{trained.where}.transforms.0.video_keys",
            expected=columns,
            got=everything,
            remedy=_remedy(columns, everything),
        )
        return tuple(range(len(columns))), (text,)
    return tuple(everything.index(name) for name in robots), ()


def with_trained_cameras(
    dataset: ObservationTransforms, trained: TrainedDataset
) -> ObservationTransforms:
    """Records all cameras of training in observations that have only some of them, in order."""
    robots, columns = dataset.img_keys, trained.cameras or ()
    places = _in_order(robots, columns) if len(robots) < len(columns) else None
    if places is None or dataset.trained_cameras:
        return dataset
    # The latter are names of NVIDIA's modality.json.
    prefixes = ("observation.images.", "video.")
    named = [name.removeprefix(prefixes[0]).removeprefix(prefixes[1]) for name in columns]
    for place, name in zip(places, robots, strict=True):
        named[place] = name
    return replace(dataset, trained_cameras=tuple(named))


def _remedy(trained: Sequence[str], robots: Sequence[str]) -> str:
    if len(robots) < len(trained):
        return (
            "List all of them; if the robot lacks some, 'flux-export --cameras' leaves them out, "
            "or trained_cameras lists all of them beside img_keys"
        )
    return "List them in the order of training"


def _is_other(robots: Sequence[str], trained: Sequence[str], known: Sequence[str]) -> bool:
    """Whether a column is named like another of the robot's cameras than the one at its place.

    A column that is named like none of them is matched by its position.
    """
    ours, theirs, all_of_robot = ([_essence(n) for n in x] for x in (robots, trained, known))
    pairs = zip(ours, theirs, strict=True)
    return any(a != b and (b in all_of_robot or b in ours or a in theirs) for a, b in pairs)


def _in_order(some: Sequence[str], cameras: Sequence[str]) -> tuple[int, ...] | None:
    """Returns the positions of `some` among `cameras`; None if one is missing or out of order."""
    names = [_essence(name) for name in cameras]
    if any(_essence(name) not in names for name in some):
        return None
    places = tuple(names.index(_essence(name)) for name in some)
    return places if list(places) == sorted(set(places)) else None


def _essence(name: str) -> tuple[str, ...]:
    """'observation.images.cam_left_wrist' and 'left_wrist' are both ('left', 'wrist')."""
    words = re.findall(r"[^\W_]+", name.lower())
    return tuple(word for word in words if word not in _COMMON) or (words[-1] if words else name,)
