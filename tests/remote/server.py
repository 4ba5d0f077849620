"""Starts `flux-runtime serve` as a user does, and asks it what anybody may ask."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flux_runtime.control.session import shipped_policy

SHIPPED = shipped_policy("aloha-sim")
PROGRAM = "import sys; from flux_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
READY_S = 60.0
"""For a machine on which much else runs."""


@dataclass(frozen=True)
class Server:
    """One that answers.

    Attributes:
        process: of the server itself.
        ready: the JSON object that it printed.
        lines: what it wrote on stderr; grows.
    """

    process: subprocess.Popen[str]
    ready: Mapping[str, Any]
    lines: list[str]

    @property
    def url(self) -> str:
        """'ws://127.0.0.1:8000', or wss."""
        return self.ready["url"]

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return urlsplit(self.url).netloc

    @property
    def port(self) -> int:
        """Of `address`."""
        found = urlsplit(self.url).port
        assert found is not None
        return found

    def kill(self) -> None:
        """As a machine that loses its power: SIGKILL."""
        self.process.kill()
        self.process.wait()

    def metric(self, name: str, **labels: str) -> float:
        """Returns the sum of a metric over all labels but those that are given."""
        with urllib.request.urlopen(self.ready["metrics_url"], timeout=5) as answer:
            return sample(answer.read().decode(), name, **labels)


def sample(text: str, name: str, **labels: str) -> float:
    """Returns the sum of a metric in Prometheus' text format."""
    total = 0.0
    for line in text.splitlines():
        found = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
        if found and all(f'{key}="{value}"' in (found[1] or "") for key, value in labels.items()):
            total += float(found[2])
    return total


def command(*arguments: str, bundle: Path = SHIPPED) -> list[str]:
    """Returns the command line of a server; `--listen` and `--metrics-port` may be among them."""
    words = [sys.executable, "-c", PROGRAM, "serve", str(bundle), "--json"]
    defaults = {"--listen": "127.0.0.1:0", "--metrics-port": "0"}
    for option, value in defaults.items():
        if option not in arguments:
            words += [option, value]
    return [*words, *arguments]


@contextmanager
def serving(
    *arguments: str,
    bundle: Path = SHIPPED,
    environment: Mapping[str, str] | None = None,
    inside: Sequence[str] = (),
) -> Iterator[Server]:
    """Runs a server meanwhile; it answers when this yields.

    Args:
        arguments: further ones of `flux-runtime serve`.
        bundle: what is served.
        environment: of the process; default: this one's.
        inside: words before the command, such as `ip netns exec NAME`.
    """
    with subprocess.Popen(
        [*inside, *command(*arguments, bundle=bundle)],
        env=None if environment is None else dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield _ready(process)
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=15)
            process.kill()


def _ready(process: subprocess.Popen[str]) -> Server:
    lines: list[str] = []
    assert process.stdout is not None and process.stderr is not None
    errors = process.stderr
    thread = threading.Thread(target=lambda: lines.extend(errors), daemon=True)
    thread.start()
    late = threading.Timer(READY_S, process.kill)
    late.start()
    line = process.stdout.readline()
    late.cancel()
    if not line.startswith("{"):
        process.wait()
        thread.join(5)
        raise AssertionError(f"no server; exit {process.returncode}: {''.join(lines)}")
    return Server(process, json.loads(line), lines)


def free_port() -> int:
    """Returns a port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


def health(url: str, trusted: Path | None = None) -> str:
    """Returns what /healthz of a server says."""
    context = None if trusted is None else ssl.create_default_context(cafile=str(trusted))
    path = url.replace("ws", "http", 1) + "/healthz"
    with urllib.request.urlopen(path, timeout=5, context=context) as answer:
        return answer.read().decode()


def made_certificate(folder: Path, *names: str) -> tuple[Path, Path]:
    """Makes a certificate with the command, and returns the files of it and its key."""
    words = [sys.executable, "-c", PROGRAM, "serve", "--make-cert", *names]
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    return folder / "flux-serve.crt", folder / "flux-serve.key"
