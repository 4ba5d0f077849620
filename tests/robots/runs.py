"""Runs `flux-runtime run` as a user does, and reads what it reports."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

PROGRAM = (
    "import contextlib, os, sys\n"
    "with contextlib.suppress(OSError): os.nice(-15)\n"
    "from flux_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
)
"""Before other work of the machine, where that is permitted: a robot's computer has none."""


@dataclass(frozen=True)
class Run:
    """What a run has printed."""

    status: int
    output: str
    errors: str

    @cached_property
    def report(self) -> dict[str, Any]:
        """The JSON object that the command printed."""
        lines = [line for line in self.output.splitlines() if line.startswith("{")]
        assert lines, f"no report; exit {self.status}: {self.errors}"
        return json.loads(lines[-1])

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events whose names begin so."""
        return [event for event in self.report["events"] if event["name"].startswith(name)]

    @property
    def error(self) -> str:
        """The last line on standard error."""
        return self.errors.strip().splitlines()[-1]


@contextmanager
def running(
    *arguments: str, environment: Mapping[str, str], inside: Sequence[str] = ()
) -> Iterator[subprocess.Popen[str]]:
    """Runs `flux-runtime run ARGUMENTS` meanwhile; it begins at once.

    Args:
        arguments: of the command.
        environment: of its process.
        inside: words before it, such as `ip netns exec NAME`.
    """
    with subprocess.Popen(
        [*inside, sys.executable, "-c", PROGRAM, "run", *arguments],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def finish(process: subprocess.Popen[str], limit_s: float) -> Run:
    """Waits for a run's end, at most `limit_s`."""
    output, errors = process.communicate(timeout=limit_s)
    return Run(process.returncode, output, errors)
