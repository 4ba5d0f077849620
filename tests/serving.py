"""Starts `flux-runtime serve` as a process, and speaks openpi's protocol with it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .documents import POLICIES

SHIPPED = POLICIES / "aloha_sim_transfer_cube"
_COMMAND = "import sys; from flux_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
_WITHOUT_TOKEN = {name: text for name, text in os.environ.items() if name != "FLUX_TOKEN"}


@dataclass(frozen=True)
class Served:
    """A running server.

    Attributes:
        report: the JSON object that it printed when it was ready: url, metrics_url, fingerprint,
            sha256, engine, pid, ...
        process: to send signals to.
        log: the file of its stderr.
    """

    report: Mapping[str, Any]
    process: subprocess.Popen[str]
    log: Path

    @property
    def url(self) -> str:
        """Such as ws://127.0.0.1:43210."""
        return self.report["url"]

    @property
    def address(self) -> str:
        """HOST:PORT of the URL."""
        return self.url.rpartition("/")[2]

    @property
    def port(self) -> int:
        """Of the URL."""
        return int(self.url.rpartition(":")[2])

    def metrics(self) -> dict[str, float]:
        """Returns all numbers, such as 'flux_serve_requests_total{protocol="openpi"}' -> 3.0."""
        with urllib.request.urlopen(self.report["metrics_url"], timeout=30) as response:
            lines = response.read().decode().splitlines()
        pairs = [line.rpartition(" ") for line in lines if line and line[0] != "#"]
        return {name: float(value) for name, _, value in pairs}

    def events(self, name: str = "") -> list[str]:
        """Returns the lines of its log, or those of one event."""
        lines = self.log.read_text().splitlines()
        return [line for line in lines if not name or line.split()[1:2] == [name]]

    def health(self) -> tuple[int, str]:
        """Returns the status and the text of /healthz."""
        url = re.sub("^ws", "http", self.url) + "/healthz"
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = 60) -> int:
        """Sends a signal and returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout_s)


def command_line(*words: object) -> list[str]:
    """Returns what runs `flux-runtime WORDS` with this Python."""
    return [sys.executable, "-c", _COMMAND, *map(str, words)]


def start_server(
    folder: Path,
    *options: object,
    bundle: Path = SHIPPED,
    environment: Mapping[str, str] | None = None,
    inside: Sequence[str] = (),
) -> Served:
    """Starts a server on a free port of loopback and waits until it is ready.

    Args:
        folder: where its log goes: serve.log.
        options: of `flux-runtime serve`, after BUNDLE; `--listen` replaces the default here.
        bundle: what it serves.
        environment: further variables.
        inside: words before the command, such as `ip netns exec NAME`.

    Raises:
        RuntimeError: it ended; the message is its stderr.
    """
    log = folder / "serve.log"
    arguments = ["serve", bundle, "--listen", "127.0.0.1:0", "--metrics-port", "any", "--json"]
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [*inside, *command_line(*arguments, *options)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**_WITHOUT_TOKEN, "OMP_NUM_THREADS": "1", **(environment or {})},
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        code = process.wait(60)
        raise RuntimeError(f"exit code {code}: {log.read_text()}")
    return Served(json.loads(line), process, log)


@contextmanager
def serving(folder: Path, *options: object, **settings: Any) -> Iterator[Served]:
    """Starts a server for a `with` block; see `start_server`. It is killed at the end."""
    served = start_server(folder, *options, **settings)
    try:
        yield served
    finally:
        served.process.kill()
        served.process.wait()
        assert served.process.stdout is not None
        served.process.stdout.close()


def observation(seed: int = 0, cameras: tuple[str, ...] = ("cam_high",)) -> dict[str, Any]:
    """Returns an observation as openpi's clients send it, for the shipped policy."""
    generator = np.random.default_rng(seed)
    return {
        "state": generator.uniform(-0.5, 0.5, 14).astype(np.float32),
        "images": {name: picture(generator) for name in cameras},
        "prompt": "transfer the cube",
    }


def picture(generator: np.random.Generator) -> NDArray[np.uint8]:
    """Returns (96, 128, 3) uint8."""
    return generator.integers(0, 256, (96, 128, 3), dtype=np.uint8)
