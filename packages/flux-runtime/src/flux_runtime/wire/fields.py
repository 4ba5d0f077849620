"""Checks the fields of a message from a stranger; each fault is a WireError of one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from .bounds import WireError, shown

_METHODS = ("prefix", "guidance")
_SCHEDULES = ("exp", "linear", "ones", "zeros")
_MOST_WEIGHT, _MOST_STEPS = 1e6, 10**6


def kind_of(data: object) -> str:
    """Returns the `type` of a message; '' without one."""
    kind = object_of("message", data).get("type")
    return kind if isinstance(kind, str) else ""


def object_of(where: str, value: object) -> dict[str, Any]:
    """Returns a map with texts as keys."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise WireError(f"{where}: expected a map, got {shown(value)}", "malformed")
    return cast(dict[str, Any], value)


def expect(
    where: str, value: object, keys: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns a map that has these keys, and no other; those of `optional` are None if missing."""
    found = object_of(where, value)
    for key in keys:
        if key not in found:
            raise WireError(f"{where}: the key {key} is missing", "missing")
    for key in found:
        if key not in keys and key not in optional:
            raise WireError(f"{where}: expected {', '.join(keys)}, got the key {shown(key)}")
    return dict.fromkeys(optional) | found


def integer_of(where: str, value: object, low: int, high: int) -> int:
    """Returns an integer in [low, high]; true and false are not integers."""
    if type(value) is not int or not low <= value <= high:
        raise WireError(f"{where}: expected an integer from {low} to {high}, got {shown(value)}")
    return value


def number_of(where: str, value: object, low: float, high: float) -> float:
    """Returns a finite number in [low, high]."""
    if type(value) not in (int, float) or not low <= cast(float, value) <= high:
        raise WireError(f"{where}: expected a number from {low:g} to {high:g}, got {shown(value)}")
    return float(cast(float, value))


def text_of(where: str, value: object, most: int) -> str:
    """Returns a text of at most `most` characters."""
    if not isinstance(value, str) or len(value) > most:
        raise WireError(
            f"{where}: expected a text of at most {most} characters, got {shown(value)}"
        )
    return value


def flag_of(where: str, value: object) -> bool:
    """Returns true or false."""
    if not isinstance(value, bool):
        raise WireError(f"{where}: expected true or false, got {shown(value)}")
    return value


def continuation_settings(where: str, value: object, horizon: int) -> Mapping[str, Any]:
    """Returns arguments of `_core.ContinuationSettings`.

    Args:
        where: of the field.
        value: see `chunking.Chunking.continuation`.
        horizon: steps of a chunk.
    """
    keys = ("method", "prefix_len", "decay_end", "schedule", "max_guidance_weight", "use_vjp")
    found = expect(where, value, (*keys, "delays"))
    delays = found["delays"]
    if not isinstance(delays, list) or not 1 <= len(cast(list[Any], delays)) <= 4096:
        raise WireError(f"{where}.delays: expected a list of delays, got {shown(delays)}")
    if flag_of(f"{where}.use_vjp", found["use_vjp"]):
        raise WireError(f"{where}.use_vjp: expected false, got true")
    return {
        "method": _one_of(f"{where}.method", found["method"], _METHODS),
        "prefix_len": _optional(f"{where}.prefix_len", found["prefix_len"], horizon),
        "decay_end": _optional(f"{where}.decay_end", found["decay_end"], _MOST_STEPS),
        "schedule": _one_of(f"{where}.schedule", found["schedule"], _SCHEDULES),
        "max_guidance_weight": number_of(
            f"{where}.max_guidance_weight", found["max_guidance_weight"], 1e-6, _MOST_WEIGHT
        ),
        "use_vjp": False,
        "delays": [
            integer_of(f"{where}.delays", delay, 0, 4096) for delay in cast(list[Any], delays)
        ],
    }


def _optional(where: str, value: object, high: int) -> int | None:
    return None if value is None else integer_of(where, value, 0, high)


def _one_of(where: str, value: object, choices: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise WireError(f"{where}: expected {' or '.join(choices)}, got {shown(value)}")
    return value
