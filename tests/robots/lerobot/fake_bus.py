"""A bus of Feetech STS servos on a pseudo-terminal, with a simulated arm behind it.

Written from the servos' communication manual, without the SDK: packets are FF FF, id, length,
instruction or error, parameters, and the inverted sum. Every write is kept with its time.
"""

from __future__ import annotations

import json
import os
import pty
import select
import threading
import time
import tty
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

PING, READ, WRITE, SYNC_READ, SYNC_WRITE = 1, 2, 3, 0x82, 0x83
BROADCAST = 0xFE
MODEL_NUMBER, MIN_POSITION, MAX_POSITION, HOMING_OFFSET = 3, 9, 11, 31
TORQUE, GOAL, PRESENT = 40, 42, 56
STS3215 = 777
MOTORS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
"""The motors of an SO-101, in the order of their ids, which begin at 1."""
RANGES = {1: (1010, 2980), 2: (1020, 2960), 3: (1030, 2940), 4: (1040, 2920), 5: (0, 4095)} | {
    6: (1800, 2900)
}
"""Their calibrated ranges, in steps."""
LAG_S = 0.05
SPEED = 3000.0  # steps per second


class Write(NamedTuple):
    """What was written to a servo, on `time.monotonic()`."""

    time_s: float
    servo: int
    address: int
    data: bytes

    @property
    def value(self) -> int:
        """The bytes as a number."""
        return int.from_bytes(self.data, "little")


@dataclass
class Servo:
    """One servo: its memory, and its position in steps."""

    memory: bytearray = field(default_factory=lambda: bytearray(128))
    position: float = 2047.0
    moved_s: float = field(default_factory=time.monotonic)

    def word(self, address: int) -> int:
        """Returns two bytes of its memory as a number."""
        return int.from_bytes(self.memory[address : address + 2], "little")

    def set_word(self, address: int, value: int) -> None:
        """Writes two bytes of its memory."""
        self.memory[address : address + 2] = value.to_bytes(2, "little")

    def move(self) -> None:
        """Follows the goal with a lag, if the torque is on; otherwise it stays."""
        now_s = time.monotonic()
        elapsed_s, self.moved_s = now_s - self.moved_s, now_s
        if self.memory[TORQUE]:
            wanted = (self.word(GOAL) - self.position) * min(1.0, elapsed_s / LAG_S)
            self.position += max(-SPEED * elapsed_s, min(SPEED * elapsed_s, wanted))
        self.set_word(PRESENT, round(self.position))


class FakeBus:
    """Servos with the ids 1 to 6, answering on `port` until the end of the `with` block.

    Attributes:
        port: the path of the pseudo-terminal.
        writes: everything that was written, the oldest first.
        silent: the ids of servos that have stopped answering.
        late_s: how late the next answers come; for one question.
    """

    def __init__(self, ranges: Mapping[int, tuple[int, int]] = RANGES) -> None:
        self._ours, self._theirs = pty.openpty()
        tty.setraw(self._theirs)
        self.port = os.ttyname(self._theirs)
        self.servos = {number: Servo() for number in ranges}
        for number, (low, high) in ranges.items():
            servo = self.servos[number]
            servo.set_word(MODEL_NUMBER, STS3215)
            servo.set_word(MIN_POSITION, low)
            servo.set_word(MAX_POSITION, high)
            servo.set_word(GOAL, 1500)  # of an earlier run: nobody may move there
        self.writes: list[Write] = []
        self.silent: set[int] = set()
        self.late_s = 0.0
        self._is_busy = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        has_died = not self._thread.is_alive()
        self._end.set()
        self._thread.join()
        os.close(self._ours)
        os.close(self._theirs)
        assert not has_died, "the bus has failed, see standard error"

    def written(self, address: int, servo: int) -> list[Write]:
        """Returns the writes to one register of one servo, once all questions are answered."""
        while self._is_busy or select.select([self._ours], [], [], 0)[0]:
            time.sleep(0.001)
        return [one for one in self.writes if (one.address, one.servo) == (address, servo)]

    def _serve(self) -> None:
        with suppress(PermissionError):  # a servo answers at once, on a busy machine too
            os.sched_setscheduler(threading.get_native_id(), os.SCHED_FIFO, os.sched_param(30))
        received = bytearray()
        while not self._end.is_set():
            self._is_busy = bool(received)
            if select.select([self._ours], [], [], 0.05)[0]:
                self._is_busy = True
                received += os.read(self._ours, 4096)
            while len(received) >= 4 and len(received) >= 4 + received[3]:
                packet = bytes(received[: 4 + received[3]])
                del received[: len(packet)]
                self._take(packet)

    def _take(self, packet: bytes) -> None:
        late_s, self.late_s = self.late_s, 0.0
        time.sleep(late_s)
        assert packet[:2] == b"\xff\xff" and packet[-1] == ~sum(packet[2:-1]) & 0xFF
        number, instruction, parameters = packet[2], packet[4], packet[5:-1]
        if instruction == PING:
            self._answer(number)
        elif instruction == READ:
            self._answer(number, *parameters)
        elif instruction == WRITE:
            self._write(number, parameters[0], parameters[1:])
            self._answer(number)
        elif instruction == SYNC_READ:
            for each in parameters[2:]:
                self._answer(each, *parameters[:2])
        elif instruction == SYNC_WRITE:
            address, size = parameters[:2]
            for start in range(2, len(parameters), size + 1):
                block = parameters[start : start + size + 1]
                self._write(block[0], address, block[1:])

    def _write(self, number: int, address: int, data: bytes) -> None:
        self.writes.append(Write(time.monotonic(), number, address, data))
        servo = self.servos[number]
        servo.move()
        servo.memory[address : address + len(data)] = data

    def _answer(self, number: int, address: int = 0, size: int = 0) -> None:
        if number in self.silent or number not in self.servos:
            return
        servo = self.servos[number]
        servo.move()
        content = bytes([number, size + 2, 0]) + bytes(servo.memory[address : address + size])
        os.write(self._ours, b"\xff\xff" + content + bytes([~sum(content) & 0xFF]))


def write_calibration(path: Path, ranges: Mapping[int, tuple[int, int]] = RANGES) -> None:
    """Writes LeRobot's calibration file of the arm."""
    entries = {
        MOTORS[number - 1]: {
            "id": number,
            "drive_mode": 0,
            "homing_offset": 0,
            "range_min": low,
            "range_max": high,
        }
        for number, (low, high) in ranges.items()
    }
    path.write_text(json.dumps(entries))
