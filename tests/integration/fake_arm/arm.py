"""The arm itself: a process of its own that simulates joints and cameras and logs every command.

    python arm.py FOLDER [--faults JSON] [--start JSON] [--differences] [--coded]

It listens on FOLDER/arm.sock and writes FOLDER/log.jsonl. It needs only numpy and Python 3.8, and
shares no code with the runtime: what it logs is what an arm's controller would have seen.

Joints are position servos: a first-order lag towards the command, limited in rate. Faults are
switched on by a schedule, counted from the first command: `{"kind": ..., "at": seconds, "for":
seconds, ...}`. Without "for" a fault lasts to the end; "at" below 0 is from the very beginning.
"""

import argparse
import contextlib
import json
import os
import queue
import signal
import socket
import threading
import time

import numpy as np

JOINTS = ("shoulder", "elbow", "gripper")
START = (0.4, 0.0, 0.5)
LOWER, UPPER = (-1.85, -1.5, 0.0), (1.25, 1.5, 1.0)
CAMERAS = ("top", "wrist")
IMAGE_SHAPE = (24, 32, 3)
SERVO_LAG_S = 0.04
SERVO_RATE = (4.0, 4.0, 6.0)
SIMULATION_PERIOD_S = 0.004
SAMPLE_PERIOD_S = 0.02
FRAME_PERIOD_S = 1 / 30
ORDINARY_BRIGHTNESS = 100
CODE_ROWS = slice(16, 24)


def coded(number):
    """Eight rows of pixels that show a number: 16 blocks, black for 0 and white for 1."""
    bits = [(number >> place) % 2 for place in range(16)]
    blocks = np.array(bits, np.uint8).reshape(2, 8) * 255
    return np.kron(blocks, np.ones((4, 4), np.uint8))[..., None]


class Fault:
    """One entry of the schedule."""

    def __init__(self, entry):
        self.kind = entry["kind"]
        self.at = float(entry.get("at", -1.0))
        self.length = float(entry.get("for", 1e9))
        self.times = entry.get("times")
        self.entry = entry
        self.is_done = False

    def is_on(self, since_first_command):
        """Whether the fault is on, seconds after the first command (negative: none came yet)."""
        elapsed = max(since_first_command, -0.5)
        if self.times is not None and self.times <= 0:
            return False
        return self.at <= elapsed < self.at + self.length

    def take(self):
        """Uses up one of the times that the fault happens."""
        if self.times is not None:
            self.times -= 1


class Log:
    """Appends one JSON object a line, with the arm's own clock. Nobody waits for the disk."""

    def __init__(self, path):
        self._stream = open(path, "a", buffering=1)  # noqa: SIM115 - open as long as the arm
        self._lines = queue.SimpleQueue()
        threading.Thread(target=self._keep, daemon=True).start()

    def write(self, what, **values):
        self._lines.put(json.dumps(dict({"t": time.monotonic_ns(), "what": what}, **values)))

    def _keep(self):
        while True:
            self._stream.write(self._lines.get() + "\n")


class Arm:
    """Servos, cameras and the schedule of faults; every method may be called from any thread."""

    def __init__(self, log, faults, start, takes_differences=False, shows_numbers=False):
        self.log = log
        self.shows_numbers = shows_numbers
        self.takes_differences = takes_differences
        self.faults = faults
        self.lock = threading.RLock()
        self.position = np.array(start, np.float64)
        self.target = self.position.copy()
        self.first_command_ns = None
        self.is_stopped = False
        self.connect_ns = 0
        self.driver_pid = 0
        self.policy_pid = 0
        self.frame_number = 0
        self._known_stamps = {}
        self._frozen = {}

    # ---- the schedule

    def elapsed(self):
        """Seconds since the first command; -1 before it."""
        if self.first_command_ns is None:
            return -1.0
        return (time.monotonic_ns() - self.first_command_ns) * 1e-9

    def since_connect(self):
        """Seconds since the driver asked to connect; -1 before that."""
        return -1.0 if not self.connect_ns else (time.monotonic_ns() - self.connect_ns) * 1e-9

    def fault(self, kind):
        """The fault of this kind that is on, or None. The first look at it is logged."""
        for fault in self.faults:
            if fault.kind == kind and fault.is_on(self.elapsed()):
                if not fault.is_done:
                    fault.is_done = True
                    self.log.write("fault", kind=kind)
                fault.take()
                return fault
        return None

    def watch(self):
        """Does what the schedule says to the processes. Called by one thread, over and over."""
        for fault in self.faults:
            if fault.kind != "signal" or fault.is_done or not fault.is_on(self.elapsed()):
                continue
            pid = self.policy_pid if fault.entry["to"] == "policy" else self.driver_pid
            if not pid or self.since_connect() < fault.entry.get("after_connect", 0.0):
                continue
            fault.is_done = True
            self.log.write("fault", kind="signal", to=fault.entry["to"], name=fault.entry["name"])
            try:
                os.kill(pid, getattr(signal, fault.entry["name"]))
            except ProcessLookupError:
                self.log.write("gone", pid=pid)

    # ---- the servos

    def step(self, seconds):
        """Moves the joints."""
        with self.lock:
            change = (self.target - self.position) * (1 - np.exp(-seconds / SERVO_LAG_S))
            slider = self.fault("slider")
            share = 1.0 if slider is None else slider.entry["share"]
            largest = share * np.array(SERVO_RATE) * seconds
            blocked = self.fault("blocked")
            if blocked is not None:
                change[blocked.entry.get("joint", 0)] = 0.0
            self.position = self.position + np.clip(change, -largest, largest)

    def command(self, values, stamp):
        """Takes a command: the servos go there, unless the arm has been stopped."""
        with self.lock:
            if self.first_command_ns is None:
                self.first_command_ns = time.monotonic_ns()
            observed = (stamp or {}).get("observed_ns", 0)
            self.log.write(
                "command",
                command=[float(value) for value in values],
                stamp=stamp,
                measured=self.position.tolist(),
                is_stopped=self.is_stopped,
                is_known=not observed or observed in self._known_stamps,
            )
            inverted = self.fault("inverted")
            if inverted is not None:
                values = np.array(values)
                values[inverted.entry["joint"]] *= -1
            if not self.is_stopped and np.isfinite(values).all():
                before = self.target if self.takes_differences else 0.0
                self.target = before + np.array(values, np.float64)

    def stop(self, category):
        """The arm's own stop: it stays where it is."""
        with self.lock:
            self.log.write("stop", category=category, measured=self.position.tolist())
            self.target = self.position.copy()
            self.is_stopped = True

    # ---- the sensors

    def state(self):
        """The joints as the driver gets them: (values, time in seconds)."""
        with self.lock:
            values, at = self.position.copy(), time.monotonic_ns()
        if self.fault("state_frozen") is not None:
            values, at = self._frozen.setdefault("state", (values, at))
        if self.fault("state_nan") is not None:
            values[1] = np.nan
        if self.fault("state_degrees") is not None:
            values[:2] = np.degrees(values[:2])
        if self.fault("state_order") is not None:
            values = values[[2, 0, 1]]
        outside = self.fault("state_outside")
        if outside is not None:
            joint = outside.entry.get("joint", 0)
            values[joint] = UPPER[joint] + outside.entry["by"]
        at_s = self._stamped("state", at)
        return values, at_s

    def frames(self, cameras):
        """The newest pictures: {camera: (image, time in seconds)}."""
        at = time.monotonic_ns()
        result = {}
        for name in cameras:
            image = np.full(IMAGE_SHAPE, self._brightness(), np.uint8)
            image[:2, :2] = self.frame_number % 256
            if self.shows_numbers:
                image[CODE_ROWS] = coded(self.frame_number)
            stamp = at
            if name == CAMERAS[0]:
                image, stamp = self._spoiled(image, stamp)
            if image is not None:
                result[name] = (image, self._stamped("camera" if name == CAMERAS[0] else "", stamp))
        if self.shows_numbers:
            self.log.write("frames", number=self.frame_number, stamp=at)
        self.frame_number += 1
        return result

    def _brightness(self):
        picture = self.fault("picture")
        if picture is None:
            return ORDINARY_BRIGHTNESS
        values = picture.entry["brightness"]
        turn = int(max(self.elapsed(), 0.0) / picture.entry.get("every", 1.0))
        return values[turn % len(values)]

    def _spoiled(self, image, stamp):
        if self.fault("camera_missing") is not None:
            return None, stamp
        if self.fault("camera_frozen") is not None:
            image, stamp = self._frozen.setdefault("camera", (image, stamp))
        if self.fault("camera_same") is not None:
            image, _ = self._frozen.setdefault("camera", (image, stamp))
        if self.fault("camera_size") is not None:
            image = np.full((12, 16, 3), 100, np.uint8)
        if self.fault("camera_empty") is not None:
            image = np.zeros((0, 0, 3), np.uint8)
        if self.fault("camera_grey") is not None:
            image = image[:, :, :1]
        return image, stamp

    def _stamped(self, sensor, at_ns):
        """The stamp of a reading, in seconds, as the schedule falsifies it."""
        seconds = at_ns * 1e-9
        with self.lock:
            self._known_stamps[round(seconds * 1e9)] = True
            self._known_stamps[at_ns] = True
            if len(self._known_stamps) > 20000:
                self._known_stamps.clear()
        if sensor and self.fault(sensor + "_nan_time") is not None:
            return float("nan")
        shift = self.fault(sensor + "_time") if sensor else None
        return seconds if shift is None else seconds + shift.entry["by"]


class Connection(threading.Thread):
    """Answers one thread of the driver: a JSON line each way, pictures follow as bytes."""

    def __init__(self, connection, arm):
        super().__init__(daemon=True)
        self._connection = connection
        self._arm = arm

    def run(self):
        reader = self._connection.makefile("rb")
        try:
            for line in reader:
                request = json.loads(line)
                head, body = self._answer(request)
                self._connection.sendall(json.dumps(head).encode() + b"\n" + body)
        except (OSError, ValueError):
            pass  # The driver has gone.

    def _answer(self, request):
        arm, call = self._arm, request["call"]
        if call == "connect":
            arm.driver_pid, arm.policy_pid = request["pid"], request["parent"]
            arm.connect_ns = time.monotonic_ns()
            arm.log.write("connect", pid=request["pid"], parent=request["parent"])
        self._delay(call)
        error = arm.fault(call + "_error")
        if error is not None:
            return {"error": error.entry.get("text", "bus busy")}, b""
        if arm.fault(call + "_crash") is not None:
            return {"crash": True}, b""
        return getattr(self, "_" + call)(request)

    def _delay(self, call):
        slow = self._arm.fault(call + "_slow")
        if slow is not None:
            time.sleep(slow.entry["seconds"])
        if self._arm.fault(call + "_never") is not None:
            time.sleep(1e6)

    def _connect(self, request):
        return {}, b""

    def _state(self, request):
        values, at_s = self._arm.state()
        slider = self._arm.fault("slider")
        share = 1.0 if slider is None else slider.entry["share"]
        return {"values": values.tolist(), "time": at_s, "share": share}, b""

    def _frames(self, request):
        time.sleep(FRAME_PERIOD_S)
        frames = self._arm.frames(request["cameras"])
        head = {name: [list(image.shape), at_s] for name, (image, at_s) in frames.items()}
        return {"frames": head}, b"".join(image.tobytes() for image, _ in frames.values())

    def _send(self, request):
        values = np.frombuffer(bytes.fromhex(request["values"]), np.float32)
        self._arm.command(values, request["stamp"])
        return {}, b""

    def _stop(self, request):
        self._arm.stop(request["category"])
        return {}, b""

    def _close(self, request):
        self._arm.log.write("close")
        return {}, b""


def simulate(arm):
    """Moves the joints in real time, samples them, and watches the schedule."""
    before = time.monotonic()
    sampled = 0.0
    while True:
        time.sleep(SIMULATION_PERIOD_S)
        now = time.monotonic()
        arm.step(now - before)
        arm.watch()
        if now - sampled >= SAMPLE_PERIOD_S:
            sampled = now
            with arm.lock:
                arm.log.write("position", measured=arm.position.tolist())
        before = now


def main():
    parser = argparse.ArgumentParser(description="A fake arm.")
    parser.add_argument("folder")
    parser.add_argument("--faults", default="[]")
    parser.add_argument("--start", default=json.dumps(START))
    parser.add_argument("--differences", action="store_true")
    parser.add_argument("--coded", action="store_true", help="pictures show their number")
    arguments = parser.parse_args()
    with contextlib.suppress(OSError):
        os.nice(-15)  # An arm's controller has a computer of its own.
    log = Log(os.path.join(arguments.folder, "log.jsonl"))
    faults = [Fault(entry) for entry in json.loads(arguments.faults)]
    start = json.loads(arguments.start)
    arm = Arm(log, faults, start, arguments.differences, arguments.coded)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(os.path.join(arguments.folder, "arm.sock"))
        server.listen(16)
        threading.Thread(target=simulate, args=(arm,), daemon=True).start()
        print("ready", flush=True)
        while True:
            connection, _ = server.accept()
            Connection(connection, arm).start()


if __name__ == "__main__":
    main()
