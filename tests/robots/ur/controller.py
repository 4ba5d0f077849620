"""A fake controller of a UR arm: a process of its own that simulates the arm and logs what it gets.

    python controller.py FOLDER ADDRESS [--faults JSON] [--start JSON]

It answers, on ADDRESS (such as 127.0.3.7), what the real one answers there: RTDE (30004), the
dashboard (29999), scripts (30003) and a Robotiq gripper (63352); and it plays the part of the
program that `ur_rtde` uploads, whose registers are its interface. It needs only Python's standard
library, shares no code with the driver, and writes FOLDER/log.jsonl.

The joints follow `servoj` with a lag, scaled by the robot's speed. A watchdog that is not fed ends
the program; an arm whose program has ended brakes. Faults are switched on by a schedule, in seconds
after the first servoj, or -1 for always: `{"kind": ..., "at": seconds, "for": seconds, ...}`:

    speed             {"share": 0.2}: the speed slider
    protective_stop   the arm stops; the program is paused until somebody acts
    silent            RTDE is neither read nor written any more
    not_ready         the program does not answer any more: servoJ waits for ever
    frozen            nothing at all answers any more, on no port
    local             the pendant is not in remote control
    off               the arm has no power
"""

import argparse
import contextlib
import json
import math
import os
import socket
import struct
import threading
import time

PORTS = {"dashboard": 29999, "script": 30003, "rtde": 30004, "gripper": 63352}
START = (0.4, -1.6, 1.6, -1.6, -1.57, 0.0)
BOOTED_S = 86_400.25
"""What the controller's clock shows when it starts."""
CYCLE_S = 0.008
SAMPLE_S = 0.016
LAG_S = 0.05
RATE_RAD_S = 4.0
BRAKING_RAD_S2 = 12.0
SERVOJ, SERVO_STOP, WATCHDOG, END = 11, 16, 35, 255
REALTIME = (6, 9, 10, SERVOJ, 24, 25, 26, 27, 38, 58)
READY, DONE = 1, 2
NORMAL, PROTECTIVE_STOP = 1, 3
RUNNING, POWER_OFF = 7, 3
STOPPED, PLAYING, PAUSED = 1, 2, 4

FORMATS = {
    "DOUBLE": "d",
    "VECTOR3D": "3d",
    "VECTOR6D": "6d",
    "VECTOR6INT32": "6i",
    "UINT64": "Q",
    "UINT32": "I",
    "INT32": "i",
    "UINT8": "B",
    "BOOL": "?",
}
VECTORS = (
    *("target_q", "target_qd", "target_qdd", "target_current", "target_moment"),
    *("actual_q", "actual_qd", "actual_current", "joint_control_output", "actual_TCP_pose"),
    *("actual_TCP_speed", "actual_TCP_force", "target_TCP_pose", "target_TCP_speed"),
    *("joint_temperatures", "actual_joint_voltage", "ft_raw_wrench", "payload_inertia"),
    "external_force_torque",
)
KINDS = {
    **dict.fromkeys(VECTORS, "VECTOR6D"),
    **dict.fromkeys(("actual_tool_accelerometer", "payload_cog"), "VECTOR3D"),
    **dict.fromkeys(("actual_digital_input_bits", "actual_digital_output_bits"), "UINT64"),
    **dict.fromkeys(("robot_mode", "safety_mode", "safety_status"), "INT32"),
    **dict.fromkeys(("robot_status_bits", "safety_status_bits", "runtime_state"), "UINT32"),
    **dict.fromkeys(("output_bit_registers0_to_31", "output_bit_registers32_to_63"), "UINT32"),
    "speed_slider_mask": "UINT32",
    "joint_mode": "VECTOR6INT32",
    **dict.fromkeys(
        (
            *("standard_digital_output_mask", "standard_digital_output"),
            *("configurable_digital_output_mask", "configurable_digital_output"),
            *("standard_analog_output_mask", "standard_analog_output_type"),
        ),
        "UINT8",
    ),
}


def kind_of(name):
    """The type of a variable, as the RTDE guide lists it."""
    if name in KINDS:
        return KINDS[name]
    if "int_register" in name:
        return "INT32"
    if "bit_register" in name:
        return "BOOL"
    return "DOUBLE"


class Log:
    """Appends one JSON object a line, with the time on this machine's monotonic clock."""

    def __init__(self, path):
        self._stream = open(path, "a", buffering=1)  # noqa: SIM115 - open as long as the arm
        self._lock = threading.Lock()

    def write(self, what, **values):
        line = json.dumps(dict({"t": time.monotonic_ns(), "what": what}, **values))
        with self._lock:
            self._stream.write(line + "\n")


class Faults:
    """The schedule, counted from the first servoj."""

    def __init__(self, entries, log):
        self._entries = entries
        self._log = log
        self._told = set()
        self.begun_s = None

    def on(self, kind):
        """The entry of this kind that is on now, or None."""
        elapsed = -1.0 if self.begun_s is None else time.monotonic() - self.begun_s
        for entry in self._entries:
            if entry["kind"] == kind and 0 <= elapsed - entry["at"] < entry.get("for", 1e9):
                if kind not in self._told:
                    self._told.add(kind)
                    self._log.write("fault", kind=kind)
                return entry
        return None


class Arm:
    """The joints, the program and the gripper; every method may be called from any thread."""

    def __init__(self, log, faults, start):
        self.log = log
        self.faults = faults
        self.lock = threading.RLock()
        self.position = list(start)
        self.velocity = [0.0] * 6
        self.target = None
        self.is_powered = True
        self.is_program_running = False
        self.is_latched = False  # by a protective stop
        self.watchdog_s = None
        self.fed_s = 0.0
        self.command = 0
        self.register = 0
        self.gripper = {"POS": 3, "SPE": 0, "FOR": 0, "ACT": 1, "GTO": 0, "STA": 3, "OBJ": 3}
        self.gripper_target = 3

    # ---- what the outside world does

    def upload(self, text):
        """Runs a program in place of the one before."""
        with self.lock:
            self.end_program("another program")
            is_ours = text.startswith("def rtde_control")
            self.log.write("program", name=text.split("(")[0], size=len(text))
            self.is_program_running = is_ours
            self.register = READY if is_ours else 0

    def end_program(self, why):
        """Ends the program; an arm that it moved brakes."""
        with self.lock:
            if self.is_program_running:
                self.log.write("program_ended", why=why, measured=self.position)
            self.is_program_running = False
            self.target = self.watchdog_s = None
            self.register = 0

    def take_inputs(self, values):
        """Takes the registers that a client has written."""
        number = values.get("input_int_register_0")
        if number is None:
            return
        with self.lock:
            self.fed_s = time.monotonic()
            before, self.command = self.command, number
            if self.faults.on("not_ready"):
                self.register = 0
                return
            if not self.is_program_running or self.is_latched:
                self.log.write("ignored", command=number)
                return
            if number in REALTIME or (number and number != before):
                self.execute(number, values)
            self.register = DONE if number and number not in REALTIME else READY

    def execute(self, number, values):
        """Does what the uploaded program does for a command."""
        numbers = [values.get(f"input_double_register_{index}", 0.0) for index in range(11)]
        if number == SERVOJ:
            if self.faults.begun_s is None:
                self.faults.begun_s = time.monotonic()
            self.target = numbers[:6]
            settings = dict(zip(("time", "lookahead", "gain"), numbers[8:11], strict=True))
            self.log.write("servoj", q=self.target, measured=list(self.position), **settings)
        elif number == SERVO_STOP:
            self.target = None
            self.log.write("servo_stop", measured=list(self.position))
        elif number == WATCHDOG:
            self.watchdog_s = 1.0 / numbers[0]
            self.log.write("watchdog_set", hz=numbers[0])
        elif number == END:
            self.end_program("the client has ended it")
        else:
            self.log.write("command", number=number)

    def power_off(self):
        """Removes the power: the brakes engage at once."""
        with self.lock:
            self.log.write("power_off", measured=list(self.position))
            self.end_program("power off")
            self.is_powered = False
            self.velocity = [0.0] * 6

    # ---- the simulation

    @property
    def speed(self):
        """The share of its speed at which the arm moves."""
        entry = self.faults.on("speed")
        return 1.0 if entry is None else entry["share"]

    def step(self, seconds):
        """Moves the joints, and looks at the watchdog and at the schedule."""
        with self.lock:
            if self.faults.on("protective_stop") and not self.is_latched:
                self.is_latched = True
                self.log.write("protective_stop", measured=list(self.position))
            if self.watchdog_s and time.monotonic() - self.fed_s > self.watchdog_s:
                self.log.write("watchdog", silent_s=time.monotonic() - self.fed_s)
                self.end_program("watchdog")
            is_servoing = self.target is not None and not self.is_latched and self.is_powered
            for joint in range(6):
                before = self.position[joint]
                if is_servoing:
                    self.position[joint] += self.follow(joint, seconds)
                    self.velocity[joint] = (self.position[joint] - before) / seconds
                else:
                    speed = self.velocity[joint]
                    slower = max(0.0, abs(speed) - BRAKING_RAD_S2 * seconds)
                    self.velocity[joint] = math.copysign(slower, speed)
                    self.position[joint] += self.velocity[joint] * seconds
            self.move_gripper(seconds)

    def follow(self, joint, seconds):
        """How far a joint moves towards its target."""
        scaled = seconds * self.speed
        change = (self.target[joint] - self.position[joint]) * (1 - math.exp(-scaled / LAG_S))
        return max(-RATE_RAD_S * scaled, min(RATE_RAD_S * scaled, change))

    def move_gripper(self, seconds):
        """The fingers take 0.6 s from open to closed."""
        distance = self.gripper_target - self.gripper["POS"]
        step = max(1, round(255 * seconds / 0.6))
        self.gripper["POS"] += max(-step, min(step, distance))

    def value(self, name):
        """The present value of a variable, as a tuple."""
        if name == "timestamp":
            return (BOOTED_S + time.monotonic(),)
        if name == "actual_q":
            return tuple(self.position)
        if name == "target_q":
            return tuple(self.position if self.target is None else self.target)
        if name == "actual_qd":
            return tuple(self.velocity)
        single = {
            "robot_mode": RUNNING if self.is_powered and not self.faults.on("off") else POWER_OFF,
            "safety_mode": PROTECTIVE_STOP if self.is_latched else NORMAL,
            "safety_status": PROTECTIVE_STOP if self.is_latched else NORMAL,
            "safety_status_bits": 0b10000000100 if self.is_latched else 1,
            "robot_status_bits": int(self.is_powered) | 2 * self.is_program_running,
            "runtime_state": self.runtime_state,
            "speed_scaling": 0.0 if self.is_latched else 1.0,
            "target_speed_fraction": self.speed,
            "output_int_register_0": self.register,
        }
        if name in single:
            return (single[name],)
        code = FORMATS[kind_of(name)]
        return (0,) * int(code[:-1] or 1)

    @property
    def runtime_state(self):
        """What the program does."""
        if not self.is_program_running:
            return STOPPED
        return PAUSED if self.is_latched else PLAYING


class Rtde:
    """One client of the RTDE port."""

    def __init__(self, connection, arm):
        self.connection = connection
        self.arm = arm
        self.outputs = {}
        self.inputs = {}
        self.is_sending = False
        self.lock = threading.Lock()

    def send(self, kind, body):
        with self.lock:
            self.connection.sendall(struct.pack(">HB", 3 + len(body), ord(kind)) + body)

    def serve(self):
        buffer = b""
        while True:
            data = self.connection.recv(65536)
            if not data:
                break
            wait_while(self.arm, "silent", "frozen")
            buffer += data
            while len(buffer) >= 3:
                size, kind = struct.unpack(">HB", buffer[:3])
                if len(buffer) < size:
                    break
                self.take(chr(kind), buffer[3:size])
                buffer = buffer[size:]
        self.is_sending = False

    def take(self, kind, body):
        if kind == "V":  # the protocol's version
            self.send("V", b"\x01")
        elif kind == "v":  # the controller's version
            self.send("v", struct.pack(">4I", 5, 11, 1, 108318))
        elif kind == "O":
            names = [name for name in body[8:].decode().split(",") if name]
            hz = struct.unpack(">d", body[:8])[0]
            self.outputs[len(self.outputs) + 1] = names, min(hz, 1 / CYCLE_S)
            self.send("O", bytes([len(self.outputs)]) + self.kinds(names))
        elif kind == "I":
            names = [name for name in body.decode().split(",") if name]
            self.inputs[len(self.inputs) + 1] = names
            self.send("I", bytes([len(self.inputs)]) + self.kinds(names))
        elif kind == "S":
            self.is_sending = True
            self.send("S", b"\x01")
            threading.Thread(target=self.pump, daemon=True).start()
        elif kind == "P":
            self.is_sending = False
            self.send("P", b"\x01")
        elif kind == "U":
            self.take_data(body)

    @staticmethod
    def kinds(names):
        return ",".join(kind_of(name) for name in names).encode()

    def take_data(self, body):
        values, offset = {}, 1
        for name in self.inputs[body[0]]:
            code = ">" + FORMATS[kind_of(name)]
            found = struct.unpack_from(code, body, offset)
            offset += struct.calcsize(code)
            values[name] = found[0] if len(found) == 1 else found
        self.arm.take_inputs(values)

    def pump(self):
        """Sends the variables that the client has asked for, again and again."""
        try:
            while self.is_sending:
                wait_while(self.arm, "silent", "frozen")
                for number, (names, _) in list(self.outputs.items()):
                    with self.arm.lock:
                        found = [(name, self.arm.value(name)) for name in names]
                    body = bytes([number])
                    for name, values in found:
                        body += struct.pack(">" + FORMATS[kind_of(name)], *values)
                    self.send("U", body)
                time.sleep(1 / max((hz for _, hz in self.outputs.values()), default=125))
        except OSError:
            pass  # The client has gone.


def wait_while(arm, *kinds):
    """Waits as long as one of these faults is on."""
    while any(arm.faults.on(kind) for kind in kinds):
        time.sleep(0.01)


def serve_script(connection, arm):
    """Takes programs: each ends with a line "end" and a pause."""
    text = b""
    connection.settimeout(0.05)
    while True:
        try:
            data = connection.recv(65536)
        except TimeoutError:
            data = None
        if data:
            text += data
        if text and data in (None, b"") and text.rstrip().endswith(b"end"):
            wait_while(arm, "frozen")
            arm.upload(text.decode(errors="replace"))
            text = b""
        if data == b"":
            return


def serve_dashboard(connection, arm):
    """Answers lines of the dashboard."""
    connection.sendall(b"Connected: Universal Robots Dashboard Server\n")
    for line in connection.makefile("r"):
        wait_while(arm, "frozen")
        request = line.strip()
        arm.log.write("dashboard", request=request)
        answers = {
            "PolyscopeVersion": "URSoftware 5.11.1.108318 (Sep 01 2021)",
            "get serial number": "20195500001",
            "is in remote control": "false" if arm.faults.on("local") else "true",
            "robotmode": "Robotmode: RUNNING",
            "safetystatus": "Safetystatus: NORMAL",
        }
        if request == "stop":
            arm.end_program("dashboard")
            answers[request] = "Stopped"
        elif request == "power off":
            arm.power_off()
            answers[request] = "Powering off"
        connection.sendall((answers.get(request, "ok") + "\n").encode())


def serve_gripper(connection, arm):
    """Answers GET and SET lines of a Robotiq gripper's server."""
    for line in connection.makefile("r"):
        wait_while(arm, "frozen")
        words = line.split()
        with arm.lock:
            if words[0] == "GET":
                answer = f"{words[1]} {arm.gripper[words[1]]}"
            else:
                answer = set_gripper(
                    arm, dict(zip(words[1::2], map(int, words[2::2]), strict=True))
                )
        connection.sendall((answer + "\n").encode())


def set_gripper(arm, values):
    """Sets variables of the gripper."""
    arm.log.write("gripper", **values)
    if "ACT" in values:
        arm.gripper["STA"] = 3 if values["ACT"] else 0
    if "POS" in values:
        arm.gripper_target = values.pop("POS")
    arm.gripper.update(values)
    return "ack"


def listen(address, port, serve):
    """Serves each client of a port on a thread of its own."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, port))
    server.listen(16)

    def guarded(connection):
        try:
            serve(connection)
        except OSError:
            pass  # The client has gone.
        finally:
            connection.close()

    def accept():
        while True:
            connection, _ = server.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=guarded, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def simulate(arm):
    """Moves the arm in real time."""
    before, sampled = time.monotonic(), 0.0
    while True:
        time.sleep(CYCLE_S)
        now = time.monotonic()
        if not arm.faults.on("frozen"):
            arm.step(now - before)
        before = now
        if now - sampled >= SAMPLE_S:
            sampled = now
            with arm.lock:
                arm.log.write("position", measured=list(arm.position), speed=arm.speed)


def main():
    parser = argparse.ArgumentParser(description="A fake controller of a UR arm.")
    parser.add_argument("folder")
    parser.add_argument("address")
    parser.add_argument("--faults", default="[]")
    parser.add_argument("--start", default=json.dumps(START))
    arguments = parser.parse_args()
    with contextlib.suppress(OSError):
        os.nice(-15)  # An arm's controller has a computer of its own.
    log = Log(arguments.folder + "/log.jsonl")
    arm = Arm(log, Faults(json.loads(arguments.faults), log), json.loads(arguments.start))
    address = arguments.address
    listen(address, PORTS["rtde"], lambda connection: Rtde(connection, arm).serve())
    listen(address, PORTS["script"], lambda connection: serve_script(connection, arm))
    listen(address, PORTS["dashboard"], lambda connection: serve_dashboard(connection, arm))
    listen(address, PORTS["gripper"], lambda connection: serve_gripper(connection, arm))
    print("ready", flush=True)
    simulate(arm)


if __name__ == "__main__":
    main()
