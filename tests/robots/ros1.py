"""A ROS 1 master and a test robot's node, which end with the test whatever happens to it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from xmlrpc.client import ServerProxy

MASTER = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
import rosmaster
rosmaster.rosmaster_main(["rosmaster", "--core", "-p", sys.argv[1]])
"""
"""Debian's rosmaster, which ends when its standard input does."""


def free_port() -> int:
    """Returns a port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass(frozen=True)
class RosSystem:
    """Where a master is or may be, and the interpreter that has rospy.

    Attributes:
        python: the interpreter.
        folder: for logs.
        port: the master's.
    """

    python: Path
    folder: Path
    port: int = field(default_factory=free_port)

    @cached_property
    def environment(self) -> dict[str, str]:
        """The variables that every process of this system needs."""
        found = {name: value for name, value in os.environ.items() if not name.startswith("ROS_")}
        found.pop("PYTHONPATH", None)
        return found | {
            "ROS_MASTER_URI": f"http://127.0.0.1:{self.port}",
            "ROS_IP": "127.0.0.1",
            "ROS_HOME": str(self.folder / "ros"),
            "ROS_LOG_DIR": str(self.folder / "ros" / "log"),
            "OMP_NUM_THREADS": "1",
        }

    @contextmanager
    def start(self, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
        """Runs the interpreter meanwhile; its standard input is a pipe of this process."""
        with subprocess.Popen(
            [str(self.python), *arguments],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            **options,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    @contextmanager
    def master(self) -> Iterator[subprocess.Popen[str]]:
        """Runs a master meanwhile; it answers once this yields."""
        with self.start("-c", MASTER, str(self.port)) as process:
            end_s = time.monotonic() + 60
            while not self._answers():
                assert process.poll() is None, "the ROS master has ended"
                assert time.monotonic() < end_s, "the ROS master does not answer"
                time.sleep(0.05)
            yield process

    def _answers(self) -> bool:
        try:
            proxy: Any = ServerProxy(self.environment["ROS_MASTER_URI"])
            return proxy.getPid("/test")[0] == 1
        except OSError:
            return False

    @contextmanager
    def node(self, script: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Runs a node meanwhile; it has said `ready` once this yields."""
        with self.start(str(script), *arguments) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line == "ready\n", line
            yield process


def read_log(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a node's log; the last may be cut off."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def only(log: Sequence[dict[str, Any]], what: str, **wanted: Any) -> list[dict[str, Any]]:
    """Returns the lines of one kind."""
    return [
        line
        for line in log
        if line["what"] == what and all(line.get(name) == value for name, value in wanted.items())
    ]
