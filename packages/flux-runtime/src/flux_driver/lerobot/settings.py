"""What `--robot-config` says of one of LeRobot's robots: LeRobot's keys, and one key of ours."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import os
import typing
from typing import Any, Dict, Mapping, Sequence

from ..robot import DriverError, one_line
from .registry import config_class

OPTION = "--robot-config"
OWN_KEY = "flux"
OWN_KEYS = (
    *("control_hz", "lower", "upper", "units"),
    *("max_velocity", "max_acceleration", "max_jerk", "max_following_error", "start_tolerance"),
)
TORQUE_OFF = "disable_torque_on_disconnect"
RELATIVE_TARGET = "max_relative_target"

Entries = Dict[str, Any]


def split(config: Mapping[str, Any], kind: str) -> tuple[Entries, Entries]:
    """Returns LeRobot's entries and ours.

    Raises:
        DriverError: `type` names another robot, or the entries of ours are none that we know.
    """
    theirs = dict(config)
    stated = theirs.pop("type", kind)
    if stated != kind:
        raise DriverError(
            f"{OPTION}: type: expected {kind!r} as in --robot lerobot:{kind}, got {stated!r:.80}"
        )
    ours = theirs.pop(OWN_KEY, None) or {}
    if not isinstance(ours, Mapping):
        raise DriverError(f"{OPTION}: {OWN_KEY}: expected a mapping, got {type(ours).__name__}")
    _refuse_unknown(ours, OWN_KEYS, OWN_KEY)
    return theirs, dict(ours)


def decoded(kind: str, entries: Entries) -> Any:
    """Returns LeRobot's config of the robot; its constructor has checked the values.

    Raises:
        DriverError: a key is unknown or missing, or a value is wrong; the message names it.
    """
    cls = config_class("robots", kind)
    filled = _checked(cls, entries, kind)
    if isinstance(filled.get("calibration_dir"), str):
        filled["calibration_dir"] = os.path.expanduser(filled["calibration_dir"])
    draccus = importlib.import_module("draccus")
    try:
        return draccus.decode(cls, filled)
    except Exception as error:
        reason = one_line(error.__cause__ or error)  # draccus says less than LeRobot's own check
        raise DriverError(f"{OPTION}: {kind}: {reason}") from error


def states_torque(entries: Mapping[str, Any]) -> bool:
    """Whether the user has said what happens to the torque at the end."""
    return any(
        name.endswith(TORQUE_OFF) or (isinstance(value, Mapping) and states_torque(value))
        for name, value in entries.items()
    )


def _checked(cls: Any, entries: Mapping[str, Any], where: str) -> Entries:
    """Returns the entries for a config class, with the torque left on at the end unless they say
    otherwise."""
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    _refuse_unknown(entries, tuple(fields), where)
    filled = dict(entries)
    hints = _hints(cls)
    for name, field in fields.items():
        if name.endswith(TORQUE_OFF):
            filled.setdefault(name, False)
        elif name not in filled:
            if field.default is field.default_factory is dataclasses.MISSING:
                raise DriverError(f"{OPTION}: {where}: expected {name!r}, got none. Add it")
        elif name == "cameras" or name.endswith("_cameras"):
            filled[name] = _cameras(filled[name], f"{where}.{name}")
        elif isinstance(filled[name], Mapping) and dataclasses.is_dataclass(hints.get(name)):
            filled[name] = _checked(hints[name], filled[name], f"{where}.{name}")
    return filled


def _cameras(entries: Any, where: str) -> Entries:
    """Checks the cameras' entries and imports the modules that register their types."""
    if not isinstance(entries, Mapping):
        got = type(entries).__name__
        raise DriverError(f"{OPTION}: {where}: expected a mapping by name, got {got}")
    for name, camera in entries.items():
        if not isinstance(camera, Mapping) or not isinstance(camera.get("type"), str):
            raise DriverError(
                f"{OPTION}: {where}.{name}: expected a mapping with a type, such as opencv, got "
                f"{camera!r:.80}"
            )
        cls = config_class("cameras", camera["type"])
        known = [field.name for field in dataclasses.fields(cls) if field.init]
        _refuse_unknown(camera, ("type", *known), f"{where}.{name}")
    return {name: dict(camera) for name, camera in entries.items()}


def _hints(cls: Any) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except NameError:  # a type that only a type checker imports
        return {}


def _refuse_unknown(entries: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for name in entries:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise DriverError(
                f"{OPTION}: {where}: expected some of {', '.join(sorted(known))}, got {name!r}."
                f"{hint}"
            )


class JointValues:
    """The entries of ours that have one value per joint.

    Args:
        ours: the mapping under `OWN_KEY`.
        joints: the names of the joints; a trailing '.pos' may be left out in the file.
    """

    def __init__(self, ours: Mapping[str, Any], joints: Sequence[str]) -> None:
        self._ours = ours
        self._joints = tuple(joints)

    def numbers(self, key: str) -> dict[str, float]:
        """Returns joint -> number, without the joints that the user leaves out.

        Raises:
            DriverError: a value is not a number, or there is no such joint.
        """
        found = self._by_joint(key)
        for joint, value in found.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise DriverError(
                    f"{OPTION}: {OWN_KEY}.{key}: {joint}: expected a number, got {value!r:.80}"
                )
        return {joint: float(value) for joint, value in found.items()}

    def texts(self, key: str) -> dict[str, str]:
        """Returns joint -> text, likewise."""
        return {joint: str(value) for joint, value in self._by_joint(key).items()}

    def _by_joint(self, key: str) -> dict[str, Any]:
        stated = self._ours.get(key)
        if stated is None:
            return {}
        if not isinstance(stated, Mapping):
            return dict.fromkeys(self._joints, stated)
        found = {}
        for name, value in stated.items():
            joint = name if name in self._joints else f"{name}.pos"
            if joint not in self._joints:
                raise DriverError(
                    f"{OPTION}: {OWN_KEY}.{key}: expected joints of {', '.join(self._joints)}, "
                    f"got {name!r}"
                )
            found[joint] = value
        return found
