"""Shows whether two checkouts do the same in simulation, to the last bit.

    python scripts/compare_simulated.py record BEFORE.out --checkout BEFORE
    python scripts/compare_simulated.py record AFTER.out --checkout .
    python scripts/compare_simulated.py compare BEFORE.out AFTER.out

Records the reports of `flux-runtime run` and `flux-eval` for the shipped policy, with 20 episodes
each, in both modes and in both of ALOHA's tasks; with `--libero VENV --libero-bundle DIR` also
LIBERO-Object. Every command that reaches a simulation is written down beside the reports. Times
that depend on the machine are not compared. Takes about a minute per checkout without LIBERO.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SHIPPED = "packages/flux-runtime/src/flux_runtime/policies/aloha_sim_transfer_cube"
TIMES = ("_ms", "_s", "lateness", "jitter", "deadline", "bundle", "report", "age", "scheduling")
"""Keys of a report that hold times of the machine or paths end or begin with one of these."""
PROGRAM = """
import os, sys
import numpy as np
from flux_core import sim

commands = open(os.environ["COMMANDS"], "wb")


def recorded(step):
    def wrapped(self, action):
        commands.write(np.ascontiguousarray(action).tobytes())
        return step(self, action)

    return wrapped


for kind in (sim.AlohaArms, sim.LiberoSim):
    kind.step = recorded(kind.step)
program, sys.argv = sys.argv[1], sys.argv[1:]
if program == "flux-eval":
    from flux_runtime.evaluate.cli import main
else:
    from flux_runtime.cli import main
status = main(sys.argv[1:])
commands.close()
sys.exit(status)
"""


def jobs(episodes: int, libero_bundle: Path | None) -> dict[str, list[str]]:
    """Returns the commands to run by name."""
    many = ["--episodes", str(episodes), "--json"]
    run = ["flux-runtime", "run", "--robot", "aloha-sim", *many]
    evaluate = ["flux-eval", *many, "--suite"]
    named = {
        "run-sync": run,
        "run-async": [*run, "--mode", "async"],
        "run-hold": [*run, "--policy", "hold", "--max-steps", "60"],
        "eval-aloha-sim": [*evaluate, "aloha-sim"],
        "eval-aloha-insertion": [*evaluate, "aloha-insertion", "--bundle", SHIPPED],
    }
    if libero_bundle is not None:
        bundle = ["--bundle", str(libero_bundle.resolve())]
        named["eval-libero-object"] = [*evaluate, "libero-object", "--task", "0", *bundle]
    return named


def record(options: argparse.Namespace) -> int:
    """Runs every command in a checkout; reports and commands go to a folder."""
    out, checkout = options.out.resolve(), options.checkout.resolve()
    out.mkdir(parents=True)
    for name, command in jobs(options.episodes, options.libero_bundle).items():
        venv = options.libero if "libero" in name else checkout / ".venv"
        done = subprocess.run(
            [str(Path(venv).absolute() / "bin" / "python"), "-c", PROGRAM, *command],
            cwd=checkout,
            env=os.environ | {"COMMANDS": str(out / f"{name}.commands")},
            stdout=subprocess.PIPE,
            check=True,
        )
        (out / f"{name}.json").write_bytes(done.stdout)
        print(f"{name}: {(out / f'{name}.commands').stat().st_size} bytes of commands")
    return 0


def compare(before: Path, after: Path) -> int:
    """Prints every difference; returns 1 if there is one."""
    names = sorted(path.stem for path in before.glob("*.json"))
    if not names:
        raise SystemExit(f"{before}: expected recorded reports, got none. Run 'record' first.")
    failed = False
    for name in names:
        same = _bytes(before, name) == _bytes(after, name)
        reports = [json.loads((folder / f"{name}.json").read_text()) for folder in (before, after)]
        lines = list(_differences("", *reports))
        print(f"{name}: commands {'identical' if same else 'DIFFER'}; {len(lines)} differences")
        for line in lines:
            print(f"  {line}")
        failed |= not same or bool(lines)
    return int(failed)


def _bytes(folder: Path, name: str) -> bytes:
    return (folder / f"{name}.commands").read_bytes()


def _differences(where: str, before: Any, after: Any) -> Iterator[str]:
    """Yields what the first report says and the second does not; new keys are no difference."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key, value in before.items():
            if not str(key).endswith(TIMES) and not str(key).startswith(TIMES):
                yield from _differences(f"{where}.{key}", value, after.get(key))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, pair in enumerate(zip(before, after, strict=True)):
            yield from _differences(f"{where}[{index}]", *pair)
    elif before != after:
        yield f"{where.lstrip('.')}: {before!r} became {after!r}"


def main() -> int:
    """Records or compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    modes = parser.add_subparsers(dest="mode", required=True)
    recorder = modes.add_parser("record")
    recorder.add_argument("out", type=Path)
    recorder.add_argument("--checkout", type=Path, default=Path())
    recorder.add_argument("--episodes", type=int, default=20)
    recorder.add_argument("--libero", type=Path, help="environment with LIBERO of the checkout")
    recorder.add_argument("--libero-bundle", type=Path, help="a policy for LIBERO-Object")
    comparer = modes.add_parser("compare")
    comparer.add_argument("before", type=Path)
    comparer.add_argument("after", type=Path)
    options = parser.parse_args()
    if options.mode == "record":
        return record(options)
    return compare(options.before, options.after)


if __name__ == "__main__":
    sys.exit(main())
