"""The driver of the fake arm: a thin client of its process. Python 3.8, numpy and sockets only.

`FAKE_ARM` names the folder of the arm. `FAKE_ARM_HZ`, `FAKE_ARM_POWER`, `FAKE_ARM_CONNECT_S`,
`FAKE_ARM_DIFFERENCES`, `FAKE_ARM_SLIDER` (it has a speed slider) and `FAKE_ARM_OMIT` (fields of the
spec to leave out, between commas) change how it describes itself.
"""

import ctypes
import json
import os
import socket
import threading

import numpy as np

SPEC = {
    "name": "fake-arm",
    "joint_names": ("shoulder", "elbow", "gripper"),
    "lower": (-1.85, -1.5, 0.0),
    "upper": (1.25, 1.5, 1.0),
    "max_velocity": (1.5, 1.5, 2.0),
    "max_acceleration": (6.0, 6.0, 10.0),
    "max_jerk": (60.0, 60.0, 100.0),
    "units": ("rad", "rad", "normalized"),
    "cameras": ("top", "wrist"),
    "control_hz": 25.0,
    "start_tolerance": (0.05, 0.05, 0.05),
    "max_following_error": (0.25, 0.25, 0.4),
}
DIFFERENCES = {
    "lower": (-0.02, -0.02, -0.02),
    "upper": (0.02, 0.02, 0.02),
    "max_velocity": (1.0, 1.0, 1.0),
    "max_acceleration": (),
    "max_jerk": (),
    "rest_command": (0.0, 0.0, 0.0),
    "state_names": ("x", "y", "opening"),
    "state_units": ("m", "m", "normalized"),
    "start_tolerance": (),
    "max_following_error": (),
}
"""The same arm, commanded by differences."""


def make_spec():
    """The spec as plain values, as an interpreter without our packages gives it."""
    spec = dict(SPEC, control_hz=float(os.environ.get("FAKE_ARM_HZ", SPEC["control_hz"])))
    if os.environ.get("FAKE_ARM_DIFFERENCES"):
        spec.update(DIFFERENCES)
    spec["holds_without_power"] = os.environ.get("FAKE_ARM_POWER") == "held"
    for name in filter(None, os.environ.get("FAKE_ARM_OMIT", "").split(",")):
        del spec[name]
    return spec


class FakeArm:
    """Each thread that calls it gets a connection of its own, so that one may hang alone."""

    def __init__(self):
        self.spec = make_spec()
        self.connect_timeout_s = float(os.environ.get("FAKE_ARM_CONNECT_S", 5.0))
        self._path = os.path.join(os.environ["FAKE_ARM"], "arm.sock")
        self._thread = threading.local()
        self._share = 1.0
        if os.environ.get("FAKE_ARM_SLIDER"):
            self.speed_scaling = lambda: self._share

    def connect(self):
        self._call("connect", pid=os.getpid(), parent=os.getppid())

    def read_state(self):
        answer = self._call("state")
        self._share = answer["share"]
        return np.array(answer["values"], np.float32), answer["time"]

    def read_frames(self, cameras):
        answer = self._call("frames", cameras=list(cameras))
        frames = {}
        for name, (shape, at_s) in answer["frames"].items():
            pixels = self._thread.reader.read(int(np.prod(shape)))
            frames[name] = (np.frombuffer(pixels, np.uint8).reshape(shape), at_s)
        return frames

    def send_stamped(self, command, stamp):
        """Sends a command with the stamps that it came with, for the arm's log."""
        values = np.asarray(command, np.float32).tobytes().hex()
        names = ("sequence", "session", "tick_ns", "observed_ns", "sent_ns", "flags")
        self._call("send", values=values, stamp={name: getattr(stamp, name) for name in names})

    def send(self, command, time_s):
        values = np.asarray(command, np.float32).tobytes().hex()
        self._call("send", values=values, stamp={"tick_ns": round(time_s * 1e9)})

    def stop(self, category):
        self._call("stop", category=int(category))

    def close(self):
        self._call("close")

    def _call(self, call, **values):
        thread = self._thread
        if not hasattr(thread, "socket"):
            thread.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            thread.socket.connect(self._path)
            thread.reader = thread.socket.makefile("rb")
        thread.socket.sendall(json.dumps(dict(values, call=call)).encode() + b"\n")
        line = thread.reader.readline()
        if not line:
            raise ConnectionError("the arm has closed the connection")
        answer = json.loads(line)
        if answer.get("crash"):
            ctypes.string_at(0)  # A segmentation fault, as a vendor's library may have.
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer
