"""Which keys of an observation are what, and the file that says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from flux_core.bundle import Manifest
from flux_core.errors import UsageError

from ..robots.config_file import read_robot_config
from .bounds import shown

OPTION = "--keys"
PROMPT_KEYS = ("prompt", "task")


@dataclass(frozen=True, kw_only=True)
class KeyMap:
    """Which keys of an observation are what. Nested maps are written with `/` between the keys.

    Attributes:
        state: its parts, in order; empty: found by name.
        images: camera -> key; the cameras that are not in it are found by name.
        prompt: the first that is there.
    """

    state: tuple[str, ...] = ()
    images: Mapping[str, str] = field(default_factory=dict[str, str])
    prompt: tuple[str, ...] = PROMPT_KEYS

    @classmethod
    def default(cls, manifest: Manifest) -> KeyMap:
        """Returns the map that finds everything by name.

        - the state as `state` or `observation/state`, or in the parts of openpi's DROID and UR5;
        - a camera as `images/NAME`, `observation/images/NAME`, `observation/NAME` or `NAME`;
        - the only scene and the only wrist camera of a policy as in openpi's LIBERO, DROID and UR5.

        `.` counts as `/`, so that LeRobot's names are found, too.
        """
        del manifest  # what it names is asked for with every observation
        return cls()

    @classmethod
    def read(cls, path: Path, manifest: Manifest) -> KeyMap:
        """Reads a JSON or YAML file: {state: [keys], images: {camera: key}, prompt: key}.

        Raises:
            UsageError: it is not such a file, or names a camera that the policy does not have.
        """
        where = f"{OPTION}: {path}"
        data = read_robot_config(path, OPTION)
        unknown = [name for name in data if name not in ("state", "images", "prompt")]
        if unknown:
            raise UsageError(
                f"{where}: expected the keys state, images and prompt, got {shown(unknown[0])}"
            )
        images = data.get("images", {})
        if not isinstance(images, Mapping):
            raise UsageError(f"{where}: images: expected camera -> key, got {shown(images)}")
        found: dict[str, str] = {}
        for camera, key in cast(Mapping[object, object], images).items():
            if camera not in manifest.cameras:
                raise UsageError(
                    f"{where}: images: expected cameras of the policy "
                    f"({', '.join(manifest.cameras)}), got {shown(camera)}"
                )
            found[str(camera)] = _texts(f"{where}: images.{camera}", [key])[0]
        return cls(
            state=_texts(f"{where}: state", data["state"]) if "state" in data else (),
            images=found,
            prompt=_texts(f"{where}: prompt", data.get("prompt", list(PROMPT_KEYS))),
        )


def _texts(where: str, value: object) -> tuple[str, ...]:
    """Returns one key or a list of keys."""
    values = cast(list[object], value) if isinstance(value, list) else [value]
    texts = [text for text in values if isinstance(text, str) and text]
    if not texts or len(texts) < len(values):
        raise UsageError(f"{where}: expected keys, got {shown(value)}")
    return tuple(texts)
