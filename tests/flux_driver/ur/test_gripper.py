"""Robotiq's gripper behind a server of its URCap, and no gripper."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from flux_driver.robot import DriverError
from flux_driver.ur.gripper import NoGripper, RobotiqGripper, make_gripper

HOST = "127.0.0.1"


class Server:
    """A gripper that is where it was sent last."""

    def __init__(self) -> None:
        self.variables = {"POS": 3, "STA": 0}
        self.requests: list[str] = []
        self._socket = socket.create_server((HOST, 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            for line in connection.makefile("r"):
                words = line.split()
                if words[0] == "SET":
                    self.requests.append(line.strip())
                    values = dict(zip(words[1::2], map(int, words[2::2]), strict=True))
                    self.variables.update(values)
                    self.variables["STA"] = 3 if self.variables.get("ACT") else 0
                    answer = "ack"
                else:
                    answer = f"{words[1]} {self.variables.get(words[1], '?')}"
                connection.sendall(f"{answer}\n".encode())

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()


@pytest.fixture
def gripper(server: Server) -> Iterator[RobotiqGripper]:
    """A connected gripper in metres, open at 3 and closed at 230."""
    found = RobotiqGripper(
        host=HOST,
        port=server.port,
        open_position=3,
        closed_position=230,
        opening=0.085,
        activate=True,
    )
    found.connect()
    yield found
    found.close()


def wait_for(is_true: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def test_a_gripper_is_activated_once(server: Server, gripper: RobotiqGripper) -> None:
    assert server.requests[:2] == ["SET ACT 0", "SET ACT 1"]
    again = RobotiqGripper(host=HOST, port=server.port)
    again.connect()
    again.close()

    assert len([request for request in server.requests if "ACT" in request]) == 2


def test_the_opening_is_read_in_the_specs_unit(gripper: RobotiqGripper) -> None:
    opening, time_s = gripper.read()

    assert opening == pytest.approx(0.085)
    assert 0 <= time.monotonic() - time_s < 30


def test_a_command_is_sent_as_a_position_and_read_back(
    server: Server, gripper: RobotiqGripper
) -> None:
    gripper.command(0.0425)
    wait_for(lambda: gripper.read()[0] < 0.05)

    assert gripper.read()[0] == pytest.approx(0.0425, abs=0.085 / 227)
    assert server.requests[-1] == "SET POS 116 SPE 255 FOR 64 GTO 1"


def test_a_server_that_goes_away_is_a_fault_until_it_is_back(
    server: Server, gripper: RobotiqGripper
) -> None:
    server.variables.pop("POS")
    wait_for(lambda: bool(gripper.fault))
    assert gripper.fault.startswith("gripper: ")
    before_s = gripper.read()[1]

    server.variables["POS"] = 230
    wait_for(lambda: gripper.read()[1] > before_s)

    assert gripper.read()[0] == 0.0
    wait_for(lambda: not gripper.fault)


def test_fingers_do_not_move_at_connect_unless_the_user_says_so(server: Server) -> None:
    with pytest.raises(DriverError, match="gripper: not active. .* activate: true"):
        RobotiqGripper(host=HOST, port=server.port).connect()

    assert server.requests == []


def test_a_missing_server_is_named() -> None:
    with socket.create_server((HOST, 0)) as probe:
        port = probe.getsockname()[1]

    with pytest.raises(DriverError, match=f"gripper: {HOST}, port {port}: .*type: none"):
        RobotiqGripper(host=HOST, port=port).connect()


def test_without_a_gripper_the_last_command_counts_as_measured() -> None:
    gripper = make_gripper(HOST, None)
    assert isinstance(gripper, NoGripper)
    assert gripper.read()[0] == 1.0

    gripper.command(0.25)

    assert gripper.read()[0] == 0.25


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"type": "hand"}, "gripper.type: expected robotiq or none, got 'hand'"),
        ({"type": "robotiq", "sped": 1}, "gripper: expected some of host, port, .*, got 'sped'"),
        ({"type": "robotiq", "speed": 256}, "gripper.speed: expected 0 to 255, got 256"),
        ({"type": "robotiq", "open_position": 255}, "closed_position to differ"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings: dict[str, object], expected: str) -> None:
    with pytest.raises(DriverError, match=expected):
        make_gripper(HOST, settings)
