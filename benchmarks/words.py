"""Measures whether a policy of both ALOHA tasks does what its words say, whatever it sees.

    python benchmarks/words.py --bundle BUNDLE --out benchmarks/results/words_2cores.json

Every sentence is said in both scenes. The commands of the first seconds are compared with the mean
movement of either task's script: the share is 0 for the movement of the scene's own task, 1 for
that of the other one, and in between for a mixture.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from kept_episodes import policy_digest, print_rows
from numpy.typing import NDArray

from flux_data.demo.generate import SCRIPTS
from flux_runtime.bench import hardware
from flux_runtime.control.latency import StageTimes
from flux_runtime.control.session import (
    RunOptions,
    connected,
    drive,
    open_policy,
)
from flux_runtime.robots.aloha_sim import AlohaInsertionRobot, AlohaSimRobot

ROBOT = "aloha-sim"
SCENES: Mapping[str, type[AlohaSimRobot]] = {
    "transfer-cube": AlohaSimRobot,
    "insertion": AlohaInsertionRobot,
}
STEPS = 100
"""Control steps that are compared: the approach, the grasp and the lift."""
SCRIPT_SPEED = 1.5
SCRIPT_SEEDS = range(20)


def main() -> int:
    """Measures, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--bundle", type=Path, required=True, help="of a policy of both tasks")
    add("--episodes", type=int, default=20, help="seeds per scene and sentence (default: 20)")
    add("--seed", type=int, default=100_000)
    add("--out", type=Path, help="write the figures as JSON")
    add("--markdown", action="store_true", help="print the table as in docs/numbers.md")
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.episodes)
    figures = [
        {
            "scene": scene,
            "words": SCRIPTS[said].words,
            **measured(options.bundle, scene, said, seeds),
        }
        for scene in SCENES
        for said in SCENES
    ]
    print_rows(table_rows(figures), is_markdown=options.markdown, width=120)
    if options.out:
        data = {"hardware": hardware(), "policy": policy_digest(options.bundle), "rows": figures}
        options.out.write_text(json.dumps(data, indent=1) + "\n")
    return 0


def measured(bundle: Path, scene: str, said: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Plays a scene with the words of task `said`; returns the shares and the successes."""
    robot, times = SCENES[scene](), StageTimes()
    options = RunOptions(robot=ROBOT, bundle=bundle, task=SCRIPTS[said].words)
    policy = open_policy(options, robot.spec, times, tasks=None)
    with connected(options, robot, policy, times) as session:
        results = [drive(session, seed) for seed in seeds]
    shares = [share_of_other(scene, np.stack(result.trace.commands)) for result in results]
    return {
        "episodes": len(results),
        "shares": shares,
        "successes": sum(bool(result.success) for result in results),
    }


def share_of_other(scene: str, commands: NDArray[np.floating]) -> float:
    """Returns how far commands (steps, 14) are from the scene's task towards the other one.

    It is the place, along the line from the one mean movement to the other, of the nearest point.
    """
    (other,) = (name for name in SCENES if name != scene)
    own, towards = mean_movement(scene), mean_movement(other) - mean_movement(scene)
    return float(((commands[:STEPS] - own) * towards).sum() / (towards**2).sum())


@cache
def mean_movement(task: str) -> NDArray[np.float64]:
    """Returns the mean commands, (`STEPS`, 14), of a task's script."""
    script = SCRIPTS[task]
    with script.simulator(cameras=()) as sim:
        plans = [script.plan(sim, seed, SCRIPT_SPEED)[:STEPS] for seed in SCRIPT_SEEDS]
    return np.stack(plans).mean(axis=0, dtype=np.float64)


def table_rows(figures: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """Yields the table, its header first."""
    yield ["scene", "words", "share of the other task: mean", "least", "most", "success"]
    for each in figures:
        shares = np.array(each["shares"])
        found = [f"{value:.2f}" for value in (shares.mean(), shares.min(), shares.max())]
        won = f"{each['successes']} of {each['episodes']}"
        yield [each["scene"], each["words"], *found, won]


if __name__ == "__main__":
    sys.exit(main())
