"""The observations of openpi's clients.

openpi's server hands an observation to transforms that know its keys, which differ from robot to
robot: {"state", "images": {camera}, "prompt"}, {"observation/image", "observation/state", ...}. A
`KeyMap` says which keys are meant; without one they are found by their names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from flux_core.types import Observation

from .bounds import WireError, shown
from .facts import PolicyFacts
from .key_map import KeyMap as KeyMap
from .numbers import finite_vector, noise_of
from .pictures import MAX_PIXELS, as_picture

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
_HOW = "Name the keys with --keys FILE"


class Received(NamedTuple):
    """An observation of a client of openpi, and the noise of its inference if it gives one.

    Attributes:
        observation: in the robot's units.
        noise: (action_horizon, action_dim of the network) float32.
    """

    observation: Observation
    noise: NDArray[np.float32] | None


def observation_of(
    data: Mapping[str, Any],
    keys: KeyMap,
    facts: PolicyFacts,
    *,
    timestamp_s: float = 0.0,
    max_pixels: int = MAX_PIXELS,
) -> Received:
    """Returns the observation in a client's message.

    Args:
        data: the message, as `packing.unpack` returns it; other keys are ignored.
        keys: which keys are what.
        facts: of the policy.
        timestamp_s: when it arrived.
        max_pixels: of the pictures of all cameras together.

    Raises:
        WireError: something is missing, or is not what it should be; the line names the keys that
            were expected and those that were found.
    """
    flat = _flattened(data)
    manifest = facts.manifest
    state = _state(flat, keys, facts)
    images: dict[str, NDArray[np.uint8]] = {}
    for camera in manifest.cameras:
        key = _camera_key(flat, keys, camera, manifest.cameras)
        images[camera] = as_picture(flat[key], key, max_pixels)
        max_pixels -= images[camera].shape[0] * images[camera].shape[1]
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
                raise WireError(f"observation: key {shown(key)}: expected it once, got it twice")
            else:
                flat[key] = value
    return flat


def _normal(key: str) -> str:
    return key.replace(".", "/")


def _state(flat: Mapping[str, Any], keys: KeyMap, facts: PolicyFacts) -> NDArray[np.float32]:
    size = facts.manifest.state_dim
    if keys.state:
        parts: tuple[str, ...] = tuple(map(_normal, keys.state))
        missing = [part for part in parts if part not in flat]
        if missing:
            raise _missing("the state", missing, flat)
    else:
        options: list[tuple[str, ...]] = [(key,) for key in _STATE_KEYS]
        if not facts.spec.is_commanded_by_differences:  # otherwise its state is not that of joints
            options += _STATE_PARTS
        found = [parts for parts in options if all(part in flat for part in parts)]
        if not found:
            raise _missing("the state", [" + ".join(option) for option in options], flat)
        if len(found) > 1:
            names = " and ".join(" + ".join(parts) for parts in found)
            raise WireError(f"observation: expected one state, got {names}. {_HOW}")
        parts = found[0]
    values = [finite_vector(part, flat[part], most=size) for part in parts]
    if not keys.state and len(parts) > 1 and len(values[-1]) != 1:
        raise WireError(f"observation: {parts[-1]}: expected one number, got {len(values[-1])}")
    state = np.concatenate(values)
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
    """Returns openpi's keys for the only camera of the scene, or the only one on a wrist."""
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
        raise WireError(f"observation: prompt: expected a text, got {shown(found)}")
    return found


def _missing(what: str, expected: Sequence[str], flat: Mapping[str, Any]) -> WireError:
    keys = sorted(flat)
    found = ", ".join(ascii(key)[1:-1][:60] for key in keys[:12])
    if len(keys) > 12:
        found += f" and {len(keys) - 12} more"
    names = " or ".join(expected)
    return WireError(
        f"observation: expected {what} as {names}, got {found or 'no keys'}. {_HOW}", "missing"
    )
