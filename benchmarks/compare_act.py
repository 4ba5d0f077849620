"""Prints what training LeRobot's ACT beside our policies has given, as in docs/numbers.md.

    python benchmarks/compare_act.py

Reads what benchmarks/act has kept in benchmarks/results/act: for every evaluated checkpoint the
outcome of each seed, and for every training its command and the CPU time of each checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kept_episodes import print_rows

from flux_runtime.control.success import wilson_interval

KEPT = Path(__file__).resolve().parent / "results" / "act"
TASKS = ("transfer-cube", "insertion")
NAMES = {"act": "LeRobot's ACT", "flux": "flux, small π0.5"}


@dataclass(frozen=True)
class Evaluated:
    """An evaluated checkpoint: a file of the folder."""

    data: dict[str, Any]

    @property
    def task(self) -> str:
        """The task."""
        return self.data["task"]

    @property
    def run(self) -> str:
        """The name of its training."""
        return self.data["run"]

    @property
    def side(self) -> str:
        """'act' or 'flux'."""
        return self.data["side"]

    @property
    def steps(self) -> int:
        """Steps of its training until then."""
        return self.data["training"]["steps"]

    @property
    def learning_rate(self) -> float:
        """The highest of its training."""
        return self.data["training"]["learning_rate"]

    @property
    def cpu_min(self) -> float:
        """CPU time of its training until then, minutes."""
        return self.data["training"]["cpu_s"] / 60

    @property
    def episodes(self) -> int:
        """How many seeds it has been evaluated on."""
        return len(self.data["success"])

    @property
    def won(self) -> int:
        """Episodes that have succeeded."""
        return self.data["success"].count("1")

    @property
    def held(self) -> int:
        """Those whose end state has also lasted."""
        return self.data["held"].count("1")

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the rate of success."""
        return wilson_interval(self.won, self.episodes)

    @property
    def name(self) -> str:
        """The policy in words."""
        policy = self.data["policy"]
        executed = f"{policy['executed']} of {policy['chunk']} steps executed"
        return f"{NAMES[self.side]}, learning rate {self.learning_rate:g}, {executed}"


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=KEPT)
    parser.add_argument("--markdown", action="store_true", help="as in docs/numbers.md")
    options = parser.parse_args()
    print_rows(
        table_rows(read(options.folder)),
        is_markdown=options.markdown,
        width=160,
    )
    return 0


def read(folder: Path = KEPT) -> list[Evaluated]:
    """Returns the evaluated checkpoints: by task, ACT first, and by their training.

    Raises:
        SystemExit: what a file says of its training is not what the training's own file says.
    """
    paths = [path for path in folder.glob("*.json") if not path.name.endswith(".training.json")]
    found = [Evaluated(json.loads(path.read_text())) for path in paths]
    for each in found:
        _check(each, folder)
    return sorted(found, key=lambda each: (TASKS.index(each.task), each.side, each.run, each.steps))


def _check(each: Evaluated, folder: Path) -> None:
    name = f"{each.run}.training.json"
    training = json.loads((folder / name).read_text())
    times = {checkpoint["cpu_s"] for checkpoint in training["checkpoints"].values()}
    if each.data["training"]["cpu_s"] not in times:
        raise SystemExit(f"{name}: expected a checkpoint at {each.data['training']['cpu_s']} s")
    if not (folder / f"{each.run}.log").is_file():
        raise SystemExit(f"{folder}: expected {each.run}.log, found none")


def table_rows(found: Sequence[Evaluated]) -> Iterator[list[str]]:
    """Yields the table, its header first."""
    yield [
        *("task", "policy", "parameters; pictures", "steps; CPU time of training"),
        *("success (95 %)", "held at the end", "SHA-256"),
    ]
    for each in found:
        policy = each.data["policy"]
        low, high = (f"{100 * bound:.1f}" for bound in each.interval)
        yield [
            each.task,
            each.name,
            f"{policy['parameters'] / 1e6:.1f} M; {policy['cameras']} of {policy['picture']}",
            f"{each.steps:,}; {each.cpu_min:.1f} min",
            f"{each.won} of {each.episodes} ({low} to {high} %)",
            str(each.held),
            f"{policy['sha256'][:12]}",
        ]


if __name__ == "__main__":
    sys.exit(main())
