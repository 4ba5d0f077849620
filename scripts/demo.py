"""`make demo`: demonstrations -> training -> export -> C++ loop -> a moving robot, in minutes.

Runs the commands that a user would type, one after another. At the end it compares the trained
policy with a policy that holds still and with the script that recorded the demonstrations.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "demo_output"
EVALUATION_SEED = 10000
EPISODES = 20
SCORED = ("transferred", "held_by_left_only")

STAGES = {
    "demonstrations": "flux-data demo aloha-sim --episodes 50 --out demo_output/demonstrations",
    "training": "flux-train configs/pi05/pi05_small_aloha_sim.py demo_output/policy",
    "export": "flux-export demo_output/policy/checkpoint_epoch_N.pt --out demo_output/bundle",
    "evaluation": "flux-runtime run --robot aloha-sim --bundle demo_output/bundle --episodes 20 "
    "--report demo_output/report.html",
    "holding still": "flux-runtime run --robot aloha-sim --policy hold --episodes 20",
}
COMMANDS = tuple(STAGES.values())


def main() -> int:
    """Runs all stages; exits with the code of the first one that fails."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--keep", action="store_true", help="reuse the results of an earlier run")
    args = parser.parse_args()
    if not args.keep:
        shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(exist_ok=True)
    started = time.monotonic()
    if not (OUT / "demonstrations").is_dir():
        run("demonstrations")
    checkpoint = newest_checkpoint()
    if checkpoint is None:
        # With --keep, a run that was interrupted may have left an incomplete folder.
        shutil.rmtree(OUT / "policy", ignore_errors=True)
        run("training")
        checkpoint = newest_checkpoint()
    run("export", checkpoint=str(checkpoint))
    policy = run("evaluation", capture=True)
    hold = run("holding still", capture=True)
    print_results(policy, hold, script_results(), time.monotonic() - started)
    return 0


def run(stage: str, *, checkpoint: str = "", capture: bool = False) -> dict[str, object]:
    """Runs one command of `STAGES`; with `capture`, returns its JSON report."""
    command = STAGES[stage].replace("demo_output/policy/checkpoint_epoch_N.pt", checkpoint)
    print(f"\n== {stage}: {command}", flush=True)
    words = shlex.split(command) + (["--json"] if capture else [])
    words[0] = str(Path(sys.executable).parent / words[0])
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    started = time.monotonic()
    done = subprocess.run(
        words, cwd=ROOT, env=environment, check=False, stdout=subprocess.PIPE if capture else None
    )
    if done.returncode:
        raise SystemExit(done.returncode)
    print(f"   ({time.monotonic() - started:.0f} s)", flush=True)
    return json.loads(done.stdout) if capture else {}


def newest_checkpoint() -> str | None:
    """Returns the newest checkpoint in the demo's work directory, relative to the repository."""
    found = (OUT / "policy").glob("checkpoint_epoch_*.pt")
    paths = sorted(found, key=lambda path: path.stat().st_mtime)
    return str(paths[-1].relative_to(ROOT)) if paths else None


def script_results() -> dict[str, int]:
    """Runs the script itself with the seeds of the evaluation."""
    from flux_core.sim import AlohaSim
    from flux_data.demo.transfer_cube import TRANSFER_CUBE

    with AlohaSim(cameras=()) as sim:
        seeds = range(EVALUATION_SEED, EVALUATION_SEED + EPISODES)
        stages = [TRANSFER_CUBE.run(sim, seed, speed=1.5, noise=0.003).stages for seed in seeds]
    return {name: sum(stage[name] for stage in stages) for name in stages[0]}


def print_results(
    policy: dict[str, object], hold: dict[str, object], script: dict[str, int], seconds: float
) -> None:
    """Prints the table of success rates and the path of the report."""
    print(f"\nTransfer cube, {EPISODES} seeds not used in training (seed {EVALUATION_SEED} on):\n")
    print(f"  {'':24}{'transferred':>12}   {'95 % interval':<16}{'held by the left hand only'}")
    for name, report in (("this policy", policy), ("holding still", hold)):
        episodes = report["episodes"]
        assert isinstance(episodes, list)
        print_row(name, *(sum(e[stage] for e in episodes) for stage in SCORED))
    print_row("the script itself", *(script[stage] for stage in SCORED))
    print(f"\nThe whole demo took {seconds / 60:.1f} minutes.")
    print(f"Look at the report: {OUT / 'report.html'}")


def print_row(name: str, transferred: int, held: int) -> None:
    """Prints one row of the table."""
    low, high = wilson_interval(transferred, EPISODES)
    rate = f"{transferred / EPISODES:.0%}"
    print(f"  {name:24}{rate:>12}   {f'{low:.0%} to {high:.0%}':<16}{held / EPISODES:.0%}")


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Returns the 95 % interval of a success rate (Wilson 1927)."""
    z = 1.959963984540054
    rate = successes / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = (
        z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials**2)) / (1 + z * z / trials)
    )
    return max(centre - half, 0.0), min(centre + half, 1.0)


if __name__ == "__main__":
    sys.exit(main())
