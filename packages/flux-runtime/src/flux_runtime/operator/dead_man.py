"""A button that must be held while the robot moves: of a joystick, or a pedal, through evdev."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from flux_core.errors import MissingDependencyError, UsageError

_CODE = re.compile(r"[A-Z][A-Z0-9_]*|[0-9]+")
_EVENT_KEY, _RELEASED = 1, 0
"""EV_KEY, and the value of its event when a button is released (linux/input-event-codes.h)."""


class DeadMan:
    """One button of an input device.

    Attributes:
        name: of the device and the button, for the operator.
        is_held: whether it was held at the last look; never again once the device is unplugged.
        is_unplugged: whether the device is gone.
    """

    def __init__(self, device: Any, code: int | None, name: str) -> None:
        """Takes an opened `evdev.InputDevice`; a `code` of None is any of its buttons."""
        self.name = name
        self.is_unplugged = False
        self.is_held = False
        self._device = device
        self._code = code
        self.look()

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._device.fileno()

    def look(self) -> bool:
        """Looks at the device, and returns whether the button was released since the last look, or
        the device is gone."""
        was_held = self.is_held
        try:
            is_released = self._takes_release() and was_held
            self.is_held = self._is_active()
        except OSError:
            self.is_held, self.is_unplugged = False, True
            return was_held
        return is_released or (was_held and not self.is_held)

    def close(self) -> None:
        """Closes the device."""
        self._device.close()

    def _takes_release(self) -> bool:
        """Takes all waiting events; even a short release among them counts."""
        is_released = False
        while True:
            try:
                events = list(self._device.read())
            except BlockingIOError:
                return is_released
            if not events:
                return is_released
            for event in events:
                is_button = event.type == _EVENT_KEY and self._code in (None, event.code)
                is_released |= is_button and event.value == _RELEASED

    def _is_active(self) -> bool:
        held = self._device.active_keys()  # the kernel's own view, also after dropped events
        return bool(held) if self._code is None else self._code in held


def open_dead_man(text: str) -> DeadMan:
    """Opens DEVICE[:CODE], such as /dev/input/event5:BTN_TRIGGER.

    Raises:
        MissingDependencyError: evdev is not installed.
        UsageError: there is no such device or button, or it may not be read.
    """
    try:
        evdev = importlib.import_module("evdev")
    except ImportError as error:
        raise MissingDependencyError(
            "--dead-man: expected evdev, got none. Install it with: pip install evdev"
        ) from error
    path, button = _split(text)
    code = _code_of(evdev, button)
    try:
        device = evdev.InputDevice(path)
    except OSError as error:
        raise UsageError(
            f"--dead-man {path}: expected an input device, got none that can be read "
            f"({error.strerror or error}). Name one of /dev/input/event*, and add yourself to the "
            f"group 'input'"
        ) from error
    known = device.capabilities().get(_EVENT_KEY, [])
    if not known or (code is not None and code not in known):
        device.close()
        raise UsageError(
            f"--dead-man {text}: expected a button of {device.name!r}, got "
            f"{button or 'a device without buttons'}. It has: {_names(evdev, known) or 'none'}"
        )
    return DeadMan(device, code, f"{device.name} {button}".strip())


def _split(text: str) -> tuple[str, str]:
    """Splits at the last colon, if a button follows it: paths may contain colons, too."""
    path, colon, button = text.rpartition(":")
    if not colon or Path(text).exists() or not _CODE.fullmatch(button):
        return text, ""
    return path, button


def _code_of(evdev: Any, button: str) -> int | None:
    if not button or button.isdecimal():
        return int(button) if button else None
    code = evdev.ecodes.ecodes.get(button)
    if code is None:
        raise UsageError(
            f"--dead-man: expected the name of a button, such as BTN_TRIGGER, or its number, got "
            f"{button!r}"
        )
    return code


def _names(evdev: Any, codes: Any) -> str:
    names = (evdev.ecodes.BTN.get(code) or evdev.ecodes.KEY.get(code) or code for code in codes)
    return ", ".join(str(name[0] if isinstance(name, tuple | list) else name) for name in names)
