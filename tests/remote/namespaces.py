"""Two computers with a cable between them: network namespaces of Linux, joined by a veth."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

_NUMBERS = count()
LISTENING = "0A"
"""The state in /proc/PID/net/tcp."""


@dataclass(frozen=True)
class Computer:
    """One of them; `address` is the one on the cable."""

    name: str
    address: str

    @property
    def inside(self) -> tuple[str, ...]:
        """What makes a command run there."""
        return ("ip", "netns", "exec", self.name)

    def set_link(self, state: str) -> None:
        """Plugs its end of the cable in ('up') or pulls it out ('down')."""
        subprocess.run([*self.inside, "ip", "link", "set", "cable", state], check=True)

    def asked(self, program: str, *arguments: str) -> Any:
        """Runs a Python program there, and returns what it printed as JSON."""
        done = subprocess.run(
            [*self.inside, sys.executable, "-c", program, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@contextmanager
def two_computers() -> Iterator[tuple[Computer, Computer]]:
    """Makes both; skips the test where that is not permitted."""
    names = [f"flux-{os.getpid()}-{next(_NUMBERS)}" for _ in range(2)]
    first, second = (
        Computer(name, f"10.250.0.{index}") for index, name in enumerate(names, start=1)
    )
    try:
        for one in (first, second):
            _must(["ip", "netns", "add", one.name])
        cable = ["ip", "link", "add", "cable", "netns", first.name, "type", "veth"]
        _must([*cable, "peer", "name", "cable", "netns", second.name])
        for one in (first, second):
            _must([*one.inside, "ip", "address", "add", f"{one.address}/30", "dev", "cable"])
            for device in ("lo", "cable"):
                _must([*one.inside, "ip", "link", "set", device, "up"])
        yield first, second
    finally:
        for name in names:
            with contextlib.suppress(OSError):
                subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _must(command: Sequence[str]) -> None:
    """Runs a command of `ip`; skips the test if that is not there, or not permitted."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"needs network namespaces: {error}")
    if done.returncode != 0:
        pytest.skip(f"needs network namespaces: {' '.join(command)}: {done.stderr.strip()}")


def listening_ports(process: int) -> dict[int, str]:
    """Returns the TCP ports at which a process listens, each with the address in /proc's spelling.

    `ip netns exec` becomes the command that it runs, so this is also the number of what runs there.
    """
    sockets = {
        os.readlink(path)[8:-1]
        for path in Path(f"/proc/{process}/fd").iterdir()
        if os.readlink(path).startswith("socket:[")
    }
    found: dict[int, str] = {}
    for family in ("tcp", "tcp6"):
        for line in Path(f"/proc/{process}/net/{family}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and fields[9] in sockets:
                address, _, port = fields[1].partition(":")
                found[int(port, 16)] = address
    return found
