"""Proves and times the engine `cuda` on a bare GPU machine, in one call of at most 8 minutes.

    python3 benchmarks/gpu/run.py OUT
    python3 benchmarks/gpu/run.py OUT --stages device small pi0
    python3 benchmarks/gpu/run.py OUT --rehearse

Needs the folder that prepare.sh makes, Python, torch, triton, numpy and safetensors; neither pip
nor a network. Each stage is a process of its own with its own time limit; OUT/run.json is rewritten
after each, and a later stage runs whatever became of an earlier one. OUT/run.log has what they
printed. The exit code is 0 if every stage passed.

With --rehearse the stages run on the processor, with small networks and a stand-in for the driver
(cpp/tests/fake_card.cpp) that computes nothing. Their status then is 'no card'.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prepared_folder import unpack_missing

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

LIMIT_S = 470
LEAST_S = 15
"""A stage is not begun with less time than this."""
LOG_BYTES = 1 << 20
"""What is kept of a stage's output, the end of it."""
LAST_LINES = 6


@dataclass(frozen=True)
class Stage:
    """A stage: its name, its time limit in seconds, and what it does."""

    name: str
    seconds: float
    what: str


STAGES = (
    Stage("device", 40, "the card, its speed, and whether there are kernels for it"),
    Stage("kernels", 40, "every kernel alone, against float64"),
    Stage("small", 60, "small pi0 and pi0.5 through the player, against PyTorch"),
    Stage("pi0", 130, "full-size pi0 through the player: actions, latency"),
    Stage("pi0_parts", 90, "full-size pi0: vision, prefix and steps against float32, and times"),
    Stage("pi0_eager", 60, "pi0 in PyTorch, and in openpi's structure"),
    Stage("pi05", 120, "full-size pi0.5 through the player: actions, latency"),
    Stage("training_frozen", 70, "training of full-size pi0 with a frozen VLM"),
    Stage("pi0_compiled", 170, "pi0 under torch.compile, in one CUDA graph"),
    Stage("training_lora", 70, "training of full-size pi0 with LoRA"),
    Stage("pi05_parts", 90, "full-size pi0.5: vision, prefix and steps against float32, and times"),
)
"""In order of importance, because time may run out."""

Command = Callable[[Stage, Path], Sequence[str]]
"""The command of a stage that writes its result to a file."""


def main() -> int:
    """Runs the stages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument("--prepared", type=Path, default=HERE / "prepared")
    parser.add_argument("--stages", nargs="+", choices=[one.name for one in STAGES])
    parser.add_argument(
        "--seconds", type=float, default=LIMIT_S, help=f"for everything (default: {LIMIT_S})"
    )
    parser.add_argument(
        "--slower", type=float, default=1.0, help="multiply the limits of the stages by this"
    )
    parser.add_argument("--rehearse", action="store_true", help="without a card; see above")
    args = parser.parse_args()
    deadline = time.monotonic() + args.seconds
    wheels = sorted((args.prepared / "wheels").glob("*.whl"))
    if not wheels:
        parser.error(f"{args.prepared}: no wheels. Run benchmarks/gpu/prepare.sh first")
    chosen = [
        replace(one, seconds=one.seconds * args.slower)
        for one in STAGES
        if not args.stages or one.name in args.stages
    ]
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        taken = unpack_missing(wheels, site)
        # Where the runtime looks first: docs/gpu.md.
        shutil.copytree(args.prepared / "kernels", site / "flux_runtime" / "cuda" / "prebuilt")
        library = compile_fake_card(Path(folder)) if args.rehearse else None
        report = Report(
            args.out / "run.json",
            chosen,
            is_rehearsal=args.rehearse,
            unpacked=taken,
            hidden=(str(ROOT), str(Path.cwd()), folder, sys.prefix, str(Path.home())),
        )

        def command(stage: Stage, result: Path) -> Sequence[str]:
            name = [sys.executable, str(HERE / "stage.py"), stage.name, str(result)]
            return [
                *(*name, "--report", str(report.path)),
                *(["--rehearse", str(library)] if library else []),
            ]

        environment = {
            "PYTHONPATH": os.pathsep.join((str(site), str(ROOT))),
            "XDG_CACHE_HOME": str(Path(folder) / "cache"),
            "TORCHINDUCTOR_CACHE_DIR": str(Path(folder) / "inductor"),
            "TRITON_CACHE_DIR": str(Path(folder) / "triton"),
        }
        run_stages(chosen, command, report, args.out / "run.log", deadline, environment)
    accepted = {"passed", "no card"} if args.rehearse else {"passed"}
    return 0 if set(report.statuses().values()) <= accepted else 1


class Report:
    """run.json: what is known so far, rewritten after each stage.

    Args:
        path: the file.
        stages: that will run.
        is_rehearsal: whether there is no card on purpose.
        unpacked: names of wheels that the machine lacked.
        hidden: folders whose names are left out of messages.
    """

    def __init__(
        self,
        path: Path,
        stages: Sequence[Stage],
        *,
        is_rehearsal: bool = False,
        unpacked: Sequence[str] = (),
        hidden: Sequence[str] = (),
    ) -> None:
        self.path, self._hidden = path, sorted(hidden, key=len, reverse=True)
        self._content: dict[str, Any] = {
            "rehearsal": is_rehearsal,
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "python": platform.python_version(),
            "machine": platform.machine(),
            "unpacked": list(unpacked),
            "stages": {
                one.name: {"what": one.what, "status": "not run", "figures": {}, "checks": []}
                for one in stages
            },
        }
        self._write()

    def add(self, name: str, **found: Any) -> None:
        """Adds what is known of a stage."""
        if "message" in found:
            for folder in self._hidden:
                found["message"] = found["message"].replace(folder, "...")
        self._content["stages"][name] |= found
        self._write()

    def statuses(self) -> dict[str, str]:
        """Stage -> status."""
        return {name: one["status"] for name, one in self._content["stages"].items()}

    def _write(self) -> None:
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self._content, indent=1) + "\n")
        partial.replace(self.path)


def run_stages(
    stages: Sequence[Stage],
    command: Command,
    report: Report,
    log: Path,
    deadline: float,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Runs every stage in a process of its own, whatever becomes of the others.

    Args:
        stages: in order.
        command: of a stage.
        report: gets the results.
        log: gets what the stages print.
        deadline: of all stages, by `time.monotonic`.
        environment: added to this process's.
    """
    log.write_text("")
    for stage in stages:
        left = deadline - time.monotonic()
        if left < LEAST_S and left < stage.seconds:
            report.add(stage.name, status="no time left", seconds=0.0)
        else:
            _run_stage(stage, command, report, log, min(stage.seconds, left), environment)
        print(f"{stage.name}: {report.statuses()[stage.name]}", flush=True)


def _run_stage(
    stage: Stage,
    command: Command,
    report: Report,
    log: Path,
    seconds: float,
    environment: Mapping[str, str] | None,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        result, output = Path(folder) / "result.json", Path(folder) / "output"
        begin = time.monotonic()
        with output.open("wb") as stream:
            code = _run_for(command(stage, result), stream, seconds, environment)
        took, printed = time.monotonic() - begin, output.read_bytes()[-LOG_BYTES:]
        found = json.loads(result.read_text()) if result.is_file() else None
    with log.open("ab") as stream:
        stream.write(f"== {stage.name}\n".encode() + printed + b"\n")
    entry = {"seconds": round(took, 1), "limit_s": round(seconds, 1)}
    entry["status"] = status_of(code, found)
    if found is not None:
        entry |= {"figures": found["figures"], "checks": found["checks"]}
    if code:
        lines = printed.decode(errors="replace").strip().splitlines()
        entry["message"] = "\n".join(lines[-LAST_LINES:])
    report.add(stage.name, **entry)


def _run_for(
    command: Sequence[str], stream: Any, seconds: float, environment: Mapping[str, str] | None
) -> int | None:
    """Returns the exit code, or None if the time ran out; then the whole process group is dead."""
    process = subprocess.Popen(
        command,
        stdout=stream,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    )
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        # Also what a stage has started and left behind.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def status_of(code: int | None, found: Mapping[str, Any] | None) -> str:
    """Returns the status of a stage from its exit code (None: the time ran out) and its result.

    Nothing passes without a card, or without a check.
    """
    if code is None:
        return "timed out"
    if code or found is None:
        return "failed"
    if not found["has_card"]:
        return "no card"
    if not found["checks"]:
        return "nothing checked"
    return "passed" if all(one["ok"] for one in found["checks"]) else "failed"


def compile_fake_card(folder: Path) -> Path:
    """Compiles what stands in for the driver."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        raise SystemExit("run.py: error: --rehearse needs a C++ compiler, found none")
    library = folder / "libfake_card.so"
    options = ["-std=c++20", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", "-o", str(library)]
    source = ROOT / "cpp" / "tests" / "fake_card.cpp"
    subprocess.run([compiler, *options, str(source)], check=True)
    return library


if __name__ == "__main__":
    sys.exit(main())
