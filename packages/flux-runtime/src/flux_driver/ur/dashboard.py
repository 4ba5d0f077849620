"""The controller's dashboard: a way to stop the arm that needs nothing of `ur_rtde`."""

from __future__ import annotations

import socket

from ..robot import DriverError

PORT = 29999
SCRIPT_PORT = 30003
TIMEOUT_S = 0.2
STOPJ = "def flux_stop():\n  stopj(4.0)\nend\n"
"""Brakes with 4 rad/s^2: from a UR3's largest speed in 0.8 s."""


def ask(host: str, request: str, timeout_s: float = TIMEOUT_S) -> str:
    """Sends one line to the dashboard and returns the answer.

    Raises:
        DriverError: it does not answer in time.
    """
    try:
        with socket.create_connection((host, PORT), timeout_s) as connection:
            connection.settimeout(timeout_s)
            answers = connection.makefile("r", encoding="utf-8", newline="\n")
            answers.readline()  # its greeting
            connection.sendall(f"{request}\n".encode())
            answer = answers.readline().strip()
    except (OSError, ValueError) as error:
        raise DriverError(f"{host}: the dashboard does not answer {request!r} ({error})") from error
    if not answer:
        raise DriverError(f"{host}: the dashboard has closed the connection after {request!r}")
    return answer


def stop_program(host: str) -> str:
    """Ends whatever program moves the arm, which then brakes.

    Returns:
        Why it is not known whether the controller has done so, or ''. A program that brakes the arm
        has then been sent to the script port, which answers nothing.
    """
    try:
        answer = ask(host, "stop")
        if not answer.lower().startswith("failed"):
            return ""
        fault = f"{host}: the dashboard answers {answer!r} to 'stop'"
    except DriverError as error:
        fault = str(error)
    try:
        with socket.create_connection((host, SCRIPT_PORT), TIMEOUT_S) as connection:
            connection.sendall(STOPJ.encode())
    except OSError as error:
        return f"{fault}; port {SCRIPT_PORT}: {error}"
    return fault


def power_off(host: str) -> None:
    """Removes the power; the brakes of all joints engage.

    Raises:
        DriverError: the dashboard does not answer.
    """
    ask(host, "power off")
