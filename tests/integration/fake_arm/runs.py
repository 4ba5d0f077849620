"""Runs `flux-runtime run` against the fake arm, with a schedule of faults."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .driver import DIFFERENCES, SPEC
from .judge import ArmLog, Limits
from .policy import HORIZON, write_policy

FOLDER = Path(__file__).parent
ROBOT = "fake_arm.driver:FakeArm"
PLAIN = "import sys; from flux_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
FIRST = "import contextlib, os\nwith contextlib.suppress(OSError): os.nice(-15)\n"
PROGRAM = FIRST + PLAIN
"""Before other work of the machine, where that is permitted: a robot's computer has none."""
Fault = dict[str, Any]
_SPAWNING = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One run: what goes wrong and with which options.

    Attributes:
        faults: the arm's schedule; seconds count from the first command.
        arguments: further arguments of `flux-runtime run`.
        environment: further variables of the run and of its driver.
        steps: the longest episode, in control steps.
        start: the arm's pose at the start.
        limit_s: the run is killed after this time.
        program: what the interpreter runs in place of the command.
        horizon: steps that the policy predicts.
        by_differences: whether the arm takes differences as commands.
        control_hz: of the arm, where another is wanted.
        delays: of real-time chunking, that the policy says it was trained with.
        summary: what the bundle says of its training set.
        are_numbers_shown: whether each picture shows its number.
    """

    faults: Sequence[Fault] = ()
    arguments: Sequence[str] = ()
    environment: dict[str, str] = field(default_factory=dict[str, str])
    steps: int = 75
    start: Sequence[float] | None = None
    limit_s: float = 40.0
    program: str = PROGRAM
    horizon: int = HORIZON
    by_differences: bool = False
    control_hz: float | None = None
    delays: tuple[int, ...] = (0,)
    summary: dict[str, Any] | None = None
    are_numbers_shown: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came out of a run: of the command, of the recording and of the arm."""

    status: int
    output: str
    errors: str
    log: ArmLog
    record: Path
    ended_ns: int

    @property
    def report(self) -> dict[str, Any]:
        """The JSON object that the command printed."""
        lines = [line for line in self.output.splitlines() if line.startswith("{")]
        assert lines, f"no report; exit {self.status}: {self.errors}"
        return json.loads(lines[-1])

    @property
    def fault_ns(self) -> int:
        """When the first fault began, by the arm's clock."""
        return self.log.first("fault")


@contextmanager
def arm(
    folder: Path,
    faults: Sequence[Fault] = (),
    start: Sequence[float] | None = None,
    *,
    by_differences: bool = False,
    are_numbers_shown: bool = False,
) -> Iterator[subprocess.Popen[str]]:
    """Runs the arm's process meanwhile; its log is FOLDER/log.jsonl."""
    command = [sys.executable, str(FOLDER / "arm.py"), str(folder), "--faults", json.dumps(faults)]
    if start is not None:
        command += ["--start", json.dumps(list(start))]
    if by_differences:
        command.append("--differences")
    if are_numbers_shown:
        command.append("--coded")
    with spawn(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def spawn(command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    """Starts a process; one thread at a time, because the child shares our memory until it runs."""
    with _SPAWNING:
        return subprocess.Popen(command, text=True, **options)


def environment(folder: Path, **others: str) -> dict[str, str]:
    """The variables with which a run finds the driver and the driver its arm."""
    paths = [str(FOLDER.parent), os.environ.get("PYTHONPATH", "")]
    found = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "FAKE_ARM": str(folder)}
    return os.environ | found | {"OMP_NUM_THREADS": "1"} | others


def limits_of(**changes: Any) -> Limits:
    """The limits that the driver states."""
    return Limits.of(SPEC | changes)


def make_bundle(
    folder: Path,
    *,
    horizon: int = HORIZON,
    delays: tuple[int, ...] = (0,),
    summary: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Writes the scripted policy for the fake arm."""
    known = {name: value for name, value in SPEC.items() if name in CARRIED}
    spec = known | changes
    return write_policy(folder, spec, horizon=horizon, delays=delays, summary=summary)


CARRIED = (
    "name",
    "joint_names",
    "lower",
    "upper",
    "max_velocity",
    "units",
    "cameras",
    "control_hz",
)
"""What the bundle says of the robot: what bundles said before the other fields existed."""


def run(folder: Path, scenario: Scenario) -> Outcome:
    """Runs a scenario to its end, and kills whatever is left of it."""
    folder.mkdir(parents=True)
    changes = dict(DIFFERENCES) if scenario.by_differences else {}
    variables = {"FAKE_ARM_DIFFERENCES": "1"} if scenario.by_differences else {}
    if scenario.control_hz is not None:
        changes["control_hz"] = scenario.control_hz
        variables["FAKE_ARM_HZ"] = f"{scenario.control_hz}"
    bundle = make_bundle(
        folder / "bundle",
        horizon=scenario.horizon,
        delays=scenario.delays,
        summary=scenario.summary,
        **changes,
    )
    record = folder / "record"
    command = [
        *(sys.executable, "-c", scenario.program),
        *("run", "--robot", ROBOT, "--bundle", str(bundle), "--record", str(record)),
        *("--episodes", "1", "--max-steps", str(scenario.steps), "--mode", "async", "--json"),
        *scenario.arguments,
    ]
    with (
        arm(
            folder,
            scenario.faults,
            scenario.start,
            by_differences=scenario.by_differences,
            are_numbers_shown=scenario.are_numbers_shown,
        ),
        spawn(
            command,
            env=environment(folder, **variables, **scenario.environment),
            stdin=subprocess.DEVNULL,  # nobody is there, so the run begins at once
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process,
    ):
        try:
            output, errors = process.communicate(timeout=scenario.limit_s)
            ended_ns = time.monotonic_ns()
            wait_for(lambda: _is_settled(folder, ended_ns), limit_s=3.0)
        finally:
            _kill(process, folder)
    log = ArmLog.read(folder / "log.jsonl")
    return Outcome(
        status=process.returncode,
        output=output,
        errors=errors,
        log=log,
        record=record,
        ended_ns=ended_ns,
    )


def wait_for(is_true: Callable[[], bool], limit_s: float) -> None:
    """Looks until something is true or the limit has passed."""
    end = time.monotonic() + limit_s
    while not is_true() and time.monotonic() < end:
        time.sleep(0.05)


def _is_settled(folder: Path, ended_ns: int) -> bool:
    """Whether the arm stands and the driver has gone, or has closed the arm."""
    log = ArmLog.read(folder / "log.jsonl")
    connects = [event for event in log.events if event["what"] == "connect"]
    is_gone = not connects or not Path(f"/proc/{connects[-1]['pid']}").exists()
    is_seen = bool(log.positions) and log.positions[-1][0] > ended_ns + 300_000_000
    return is_gone and is_seen


def _kill(process: subprocess.Popen[str], folder: Path) -> None:
    """Kills the run and its driver, which has a session of its own."""
    process.kill()
    for event in ArmLog.read(folder / "log.jsonl").events:
        if event["what"] == "connect" and event["pid"] > 1:
            try:
                if "flux_driver" in Path(f"/proc/{event['pid']}/cmdline").read_text():
                    os.kill(event["pid"], signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError):
                pass  # It has gone by itself.
