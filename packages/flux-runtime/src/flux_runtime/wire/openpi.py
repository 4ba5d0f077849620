"""The observations of openpi's clients.

openpi's server hands an observation to transforms that know its keys, which differ from robot to
robot: {"state", "images": {camera}, "prompt"}, {"observation/image", "observation/state", ...}. A
`KeyMap` says which keys are meant; without one they are found by their names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from flux_core.bundle import Manifest
from flux_core.bundle.checks import show
from flux_core.errors import UsageError
from flux_core.types import Observation

from .bounds import WireError
from .facts import PolicyFacts
from .numbers import finite_vector, noise_of
from .pictures import MAX_PIXELS, as_picture

PROMPT_KEYS = ("prompt", "task")
_STATE_KEYS = ("state", "observation/state")
_STATE_PARTS = (
    ("observation/joint_position", "observation/gripper_position"),  # openpi's DROID
    ("joints", "gripper"),  # openpi's UR5
)
_CAMERA_KEYS = (
    *("images/{}", "image/{}", "observation/images/{}", "observation/image/{}"),
    *("observation/{}", "{}"),
)
# openpi's LIBERO, DROID and UR5 name their cameras by their place.
_SCENE_KEYS = ("observation/image", "observation/exterior_image_1_left", "base_rgb")
_WRIST_KEYS = ("observation/wrist_image", "observation/wrist_image_left", "wrist_rgb")
_WRIST = re.compile(r"wrist|hand|gripper")
_MAX_FILE_BYTES = 64 * 2**10
_HOW = "Name the keys with --keys FILE"


class Received(NamedTuple):
    """An observation of a client of openpi, and the noise of its inference if it gives one.

    Attributes:
        observation: in the robot's units.
        noise: (action_horizon, action_dim of the network) float32.
    """

    observation: Observation
    noise: NDArray[np.float32] | None


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
        where = f"--keys {path}"
        data = _file_data(path, where)
        unknown = [name for name in data if name not in ("state", "images", "prompt")]
        if unknown:
            raise UsageError(
                f"{where}: expected the keys state, images and prompt, got {show(unknown[0])}"
            )
        images = data.get("images", {})
        if not isinstance(images, Mapping):
            raise UsageError(f"{where}: images: expected camera -> key, got {show(images)}")
        found: dict[str, str] = {}
        for camera, key in cast(Mapping[object, object], images).items():
            if camera not in manifest.cameras:
                raise UsageError(
                    f"{where}: images: expected cameras of the policy "
                    f"({', '.join(manifest.cameras)}), got {show(camera)}"
                )
            found[str(camera)] = _texts(f"{where}: images.{camera}", [key])[0]
        return cls(
            state=_texts(f"{where}: state", data.get("state", [])),
            images=found,
            prompt=_texts(f"{where}: prompt", data.get("prompt", list(PROMPT_KEYS))),
        )


def observation_of(
    data: Mapping[str, Any], keys: KeyMap, facts: PolicyFacts, *, timestamp_s: float = 0.0
) -> Received:
    """Returns the observation in a client's message.

    Args:
        data: the message, as `packing.unpack` returns it; other keys are ignored.
        keys: which keys are what.
        facts: of the policy.
        timestamp_s: when it arrived.

    Raises:
        WireError: something is missing, or is not what it should be; the line names the keys that
            were expected and those that were found.
    """
    flat = _flattened(data)
    manifest = facts.manifest
    state = _state(flat, keys, manifest.state_dim)
    images: dict[str, NDArray[np.uint8]] = {}
    pixels = MAX_PIXELS  # of all cameras together
    for camera in manifest.cameras:
        key = _camera_key(flat, keys, camera, manifest.cameras)
        images[camera] = as_picture(flat[key], key, pixels)
        pixels -= images[camera].shape[0] * images[camera].shape[1]
    return Received(
        Observation(
            images=images,
            state=state,
            prompt=_prompt(flat, keys, manifest.prompt),
            timestamp_s=timestamp_s,
        ),
        noise_of(data.get("noise"), manifest),
    )


def _flattened(data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of nested maps under keys with `/` between their parts."""
    flat: dict[str, Any] = {}
    pending: list[tuple[str, Mapping[str, Any]]] = [("", data)]
    while pending:
        prefix, level = pending.pop()
        for name, value in level.items():
            key = prefix + _normal(name)
            if isinstance(value, Mapping):
                pending.append((f"{key}/", cast(Mapping[str, Any], value)))
            elif key in flat:
                raise WireError(f"observation: key {show(key)}: expected it once, got it twice")
            else:
                flat[key] = value
    return flat


def _normal(key: str) -> str:
    return key.replace(".", "/")


def _state(flat: Mapping[str, Any], keys: KeyMap, size: int) -> NDArray[np.float32]:
    if keys.state:
        parts: tuple[str, ...] = tuple(map(_normal, keys.state))
        missing = [part for part in parts if part not in flat]
        if missing:
            raise _missing("the state", missing, flat)
    else:
        options = [(key,) for key in _STATE_KEYS] + list(_STATE_PARTS)
        found = [parts for parts in options if all(part in flat for part in parts)]
        if not found:
            raise _missing("the state", [" + ".join(option) for option in options], flat)
        if len(found) > 1:
            shown = " and ".join(" + ".join(parts) for parts in found)
            raise WireError(f"observation: expected one state, got {shown}. {_HOW}")
        parts = found[0]
    state = np.concatenate([finite_vector(part, flat[part], most=size) for part in parts])
    if len(state) != size:
        raise WireError(
            f"observation: {' + '.join(parts)}: expected {size} numbers, got {len(state)}"
        )
    return state


def _camera_key(flat: Mapping[str, Any], keys: KeyMap, camera: str, cameras: Sequence[str]) -> str:
    """Returns the key of a camera's picture."""
    if camera in keys.images:
        key = _normal(keys.images[camera])
        if key not in flat:
            raise _missing(f"camera {camera}", [key], flat)
        return key
    names = [pattern.format(_normal(camera)) for pattern in _CAMERA_KEYS]
    found = [name for name in names if name in flat]
    if not found:
        taken = {_normal(key) for key in keys.images.values()}
        by_place = [key for key in _keys_by_place(camera, cameras) if key not in taken]
        found = [key for key in by_place if key in flat]
        names += by_place
    if len(found) > 1:
        raise WireError(
            f"observation: camera {camera}: expected one picture, got {' and '.join(found)}. {_HOW}"
        )
    if not found:
        raise _missing(f"camera {camera}", names, flat)
    return found[0]


def _keys_by_place(camera: str, cameras: Sequence[str]) -> tuple[str, ...]:
    """Returns openpi's keys for a camera that is a policy's only one of the scene, or on a wrist."""
    is_wrist = bool(_WRIST.search(camera))
    alike = [name for name in cameras if bool(_WRIST.search(name)) == is_wrist]
    if len(alike) > 1:
        return ()
    return _WRIST_KEYS if is_wrist else _SCENE_KEYS


def _prompt(flat: Mapping[str, Any], keys: KeyMap, default: str) -> str:
    found = next((flat[key] for key in map(_normal, keys.prompt) if key in flat), None)
    if found is None and default:
        return default
    if found is None:
        raise _missing("the prompt, because the policy has no default,", keys.prompt, flat)
    if not isinstance(found, str) or not found.strip():
        raise WireError(f"observation: prompt: expected a text, got {show(found)}")
    return found


def _missing(what: str, expected: Sequence[str], flat: Mapping[str, Any]) -> WireError:
    names = sorted(flat)
    shown = ", ".join(ascii(name)[1:-1][:60] for name in names[:12])
    if len(names) > 12:
        shown += f" and {len(names) - 12} more"
    return WireError(
        f"observation: expected {what} as {' or '.join(expected)}, got {shown or 'no keys'}. {_HOW}",
        "missing",
    )


def _file_data(path: Path, where: str) -> Mapping[str, Any]:
    try:
        content = path.read_bytes()
        if len(content) > _MAX_FILE_BYTES:
            raise UsageError(f"{where}: expected at most {_MAX_FILE_BYTES} bytes")
        if path.suffix == ".json":
            data = json.loads(content)
        else:
            import yaml

            data = yaml.safe_load(content)
    except OSError as error:
        raise UsageError(f"{where}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not valid JSON ({show(str(error))})") from error
    if not isinstance(data, Mapping):
        raise UsageError(f"{where}: expected a map, got {show(data)}")
    return cast(Mapping[str, Any], data)


def _texts(where: str, value: object) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(x, str) and x for x in values):
        raise UsageError(f"{where}: expected keys, got {show(value)}")
    return tuple(cast(list[str], values))
