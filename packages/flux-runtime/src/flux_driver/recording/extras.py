"""Reads what a driver delivers beside the policy's inputs: depth maps, a mobile base.

It is recorded and never fed to a policy, so nothing waits for it and no fault of it stops a robot.
"""

from __future__ import annotations

from typing import Any, Mapping

import numpy as np

from ..events import Events
from ..readings import CaptureTimes, ReadingError, as_pair
from ..robot import DriverError
from ..threads import DriverThread
from .frame_sender import FrameSender

FIRST_S = 5.0
"""How long to wait for the first reading of each."""
KINDS = ("depth", "vector")


def extras_of(robot: Any) -> dict[str, dict[str, Any]]:
    """Returns what a driver says of its extras: name -> {kind, names}.

    Raises:
        DriverError: it says something else.
    """
    found = getattr(robot, "extras", None) or {}
    if not isinstance(found, Mapping):
        raise DriverError(f"extras: expected {{name: {{kind}}}}, got {type(found).__name__}")
    extras: dict[str, dict[str, Any]] = {}
    for name, entry in found.items():
        kind = entry.get("kind") if isinstance(entry, Mapping) else entry
        if kind not in KINDS:
            raise DriverError(f"extras: {name}: expected the kind {' or '.join(KINDS)}, got {kind}")
        extras[str(name)] = {"kind": kind, "names": [str(text) for text in entry.get("names", ())]}
        if kind == "vector" and not extras[str(name)]["names"]:
            raise DriverError(f"extras: {name}: expected the names of its values, got none")
    if extras and not callable(getattr(robot, "read_extras", None)):
        raise DriverError("extras: expected read_extras() beside it, got none")
    return extras


class ExtrasReader(DriverThread):
    """Calls `read_extras` once per control period, on a thread of its own.

    Attributes:
        shapes: of what has arrived: name -> shape.
        fault: why a reading was refused last, or ''.
    """

    def __init__(
        self, robot: Any, period_s: float, events: Events, max_retries: int, sender: FrameSender
    ) -> None:
        super().__init__("read_extras", events, max_retries=max_retries, pause_s=period_s)
        self.kinds = extras_of(robot)
        self.shapes: dict[str, Any] = {}
        self.fault = ""
        self._robot = robot
        self._period_s = period_s
        self._sender = sender
        self._times = {name: CaptureTimes(name) for name in self.kinds}

    def missing(self) -> Any:
        """Returns the extras that have not arrived yet."""
        return [name for name in self.kinds if name not in self.shapes]

    def step(self) -> bool:
        """Reads once, and hands what is new to the recording."""
        self._end.wait(self._period_s)
        found = self._robot.read_extras()
        if not isinstance(found, Mapping):
            raise ReadingError(
                "wrong_type", f"expected {{name: (array, time_s)}}, got {type(found).__name__}"
            )
        for name in self.kinds:
            if name in found:
                try:
                    self._take(name, found[name])
                except ReadingError as error:
                    self.fault = str(error)
                    self._events.report(f"{error.name} {name}", str(error))
        return True

    def _take(self, name: str, reading: Any) -> None:
        values, time_s = as_pair(reading, f"read_extras(): {name}")
        values = self._checked(name, np.asarray(values))
        if not self._times[name].accept(time_s):
            return
        if name not in self.shapes:
            self._sender.add_stream(name, values.shape, values.dtype)
            self.shapes[name] = list(values.shape)
        self._sender.put(name, values, self._times[name].newest_ns)

    def _checked(self, name: str, values: np.ndarray) -> np.ndarray:
        names = self.kinds[name]["names"]
        if self.kinds[name]["kind"] == "depth":
            if values.ndim == 3 and values.shape[2] == 1:
                values = values[..., 0]
            is_right = values.dtype == np.uint16 and values.ndim == 2
            expected = "(height, width) uint16, millimetres"
        else:
            values = values.astype(np.float32)
            is_right = values.shape == (len(names),) and bool(np.isfinite(values).all())
            expected = f"({len(names)},) finite numbers"
        if is_right and name in self.shapes and list(values.shape) != self.shapes[name]:
            is_right, expected = False, f"{tuple(self.shapes[name])}, as in its first reading"
        if not is_right:
            got = f"{values.dtype} {values.shape}"
            raise ReadingError("wrong_extra", f"{name}: expected {expected}, got {got}")
        return values
