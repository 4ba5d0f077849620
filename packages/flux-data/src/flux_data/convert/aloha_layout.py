"""What an ALOHA HDF5 file holds: the widths of its vectors, and what is not converted."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from flux_core.errors import DataError

logger = logging.getLogger("flux.data")

BASE = "base_action"
BASE_NAMES = ("base_linear_velocity", "base_angular_velocity")
"""Mobile ALOHA's base: forwards, and around the vertical axis."""

ARMS_DIM, FINGERS_DIM = 14, 16
"""The width of two arms, with one number for each gripper or with both of its fingers."""

JOINTS = ("qpos", "action", "qvel", "effort")
"""The vectors with one number for each joint."""

IGNORED = ("compress_len",)
"""Datasets that only help to read others: the lengths of padded JPEGs."""

DEPTH_FOLDERS = ("images_depth", "depths")

ALSO = {
    "observations/qvel": "qvel",
    "observations/effort": "effort",
    "observations/eepose": "eepose",
    BASE: "base",
    **{f"observations/{name}": "depth" for name in DEPTH_FOLDERS},
}
"""Where data are that `--also` converts."""


def place_of(name: str) -> str:
    """Returns where a vector is in the file."""
    return name if name in ("action", BASE) else f"observations/{name}"


def widths_of(file: Any, names: Sequence[str]) -> dict[str, int]:
    """Returns the widths of the vectors in a file; those that are no matrices are left out.

    Raises:
        DataError: two of them contradict each other.
    """
    items = {name: file.get(place_of(name)) for name in dict.fromkeys((*names, BASE))}
    widths = {
        name: int(item.shape[1]) for name, item in items.items() if getattr(item, "ndim", None) == 2
    }
    if BASE in widths and widths.get("action") == FINGERS_DIM:
        raise DataError(
            f"{file.filename}: /action is {FINGERS_DIM} wide and /{BASE} {widths[BASE]}: the last "
            f"{widths[BASE]} may be the base's velocities or fingers of the grippers. Leave one "
            f"of them out: /{BASE}, or those of /action"
        )
    joints = {name: widths[name] for name in JOINTS if name in widths and name in names}
    if joints.get("action") not in (None, ARMS_DIM, FINGERS_DIM):
        return {}  # refused when it is read
    for name, width in joints.items():
        if width != joints.get("qpos", width):
            raise DataError(
                f"{file.filename}: /{place_of(name)} is {width} wide and /observations/qpos "
                f"{joints['qpos']}: expected the same joints in both"
            )
    return {name: widths[name] for name in widths if name in names}


def check_widths(path: Path, found: Mapping[str, int], expected: Mapping[str, int]) -> None:
    """Refuses a file whose vectors differ in width from those of the first file.

    Raises:
        DataError: one does.
    """
    for name, width in found.items():
        if width != expected.get(name, width):
            raise DataError(
                f"{path}: /{place_of(name)}: expected {expected[name]} dimensions, as in the first "
                f"file, got {width}"
            )


def unread(file: Any, extras: Collection[str]) -> list[str]:
    """Returns the places of the datasets in a file that are not converted."""
    import h5py

    read = {place_of("qpos"), "action", *IGNORED, "observations/images"}
    read |= {place for place, extra in ALSO.items() if extra in extras}
    found: list[str] = []

    def visit(name: str, item: Any) -> None:
        parents = {"/".join(name.split("/")[:n]) for n in range(1, name.count("/") + 2)}
        if isinstance(item, h5py.Dataset) and not parents & read:
            found.append(name)

    file.visititems(visit)
    return found


def tell_of_unread(folder: Path, places: Collection[str]) -> None:
    """Warns once of data that are not converted, with the option that would convert them."""
    if not places:
        return
    options = [
        extra
        for place, extra in ALSO.items()
        if any(each == place or each.startswith(f"{place}/") for each in places)
    ]
    hint = f". Add --also {' '.join(dict.fromkeys(options))} for some" if options else ""
    names = ", ".join(f"/{place}" for place in sorted(places))
    logger.warning("%s: not converted: %s%s", folder, names, hint)
