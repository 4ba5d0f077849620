"""Where a training of the comparison lies, and what is kept of it and of its checkpoints.

Runs in both environments: ours and LeRobot's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
WORK = Path("work_dirs") / "act"
KEPT = Path("benchmarks") / "results" / "act"
FIRST_SEED, EPISODES = 100_000, 200

Side = Literal["act", "flux"]


class Episode(NamedTuple):
    """What came of an episode: `held` also requires that the end state lasts, as in flux-eval."""

    seed: int
    success: bool
    held: bool


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a checkpoint is; `executed` of the `chunk`'s steps are executed before the next chunk.

    Attributes:
        sha256: of the file of weights that was evaluated.
    """

    parameters: int
    picture: tuple[int, int]
    cameras: int
    chunk: int
    executed: int
    sha256: str


@dataclass(frozen=True)
class Run:
    """A training, by its name; paths are relative to the repository."""

    name: str

    @property
    def folder(self) -> Path:
        """Where its checkpoints are."""
        return WORK / self.name

    @property
    def log(self) -> Path:
        """What the training printed."""
        return KEPT / f"{self.name}.log"

    @property
    def training(self) -> Path:
        """Its command, and the CPU time of each checkpoint."""
        return KEPT / f"{self.name}.training.json"

    def result(self, steps: int) -> Path:
        """What an evaluation of a checkpoint found."""
        return KEPT / f"{self.name}.{steps:06d}.json"

    def cpu_s(self, weights: Path) -> float:
        """Returns the CPU time that the training had taken when it began to write `weights`."""
        training = json.loads((ROOT / self.training).read_text())
        name = weights.relative_to(self.folder).as_posix()
        try:
            return training["checkpoints"][name]["cpu_s"]
        except KeyError:
            known = ", ".join(training["checkpoints"]) or "none"
            raise SystemExit(f"{self.training}: expected {name}, found {known}") from None

    def keep(
        self,
        side: Side,
        task: str,
        policy: Policy,
        training: Mapping[str, Any],
        episodes: Sequence[Episode],
        cpu_s: float,
        versions: Mapping[str, str],
    ) -> None:
        """Writes what an evaluation has found.

        Args:
            side: whose policy it is.
            task: the task.
            policy: the checkpoint.
            training: `steps`, `cpu_s`, `seed`, `batch_size` and `learning_rate`.
            episodes: of consecutive seeds.
            cpu_s: what the evaluation took.
            versions: of the packages that trained it.
        """
        python = ".venv-act/bin/python" if side == "act" else "python"
        evaluation = {
            "command": shlex.join([python, *sys.argv]),
            "first_seed": episodes[0].seed,
            "episodes": len(episodes),
            "cpu_s": round(cpu_s, 1),
        }
        result: dict[str, Any] = {
            "run": self.name,
            "side": side,
            "task": task,
            "policy": {**vars(policy), "picture": "x".join(map(str, policy.picture))},
            "training": dict(training),
            "versions": dict(versions),
            "evaluation": evaluation,
            # A digit per seed.
            "success": "".join(str(int(episode.success)) for episode in episodes),
            "held": "".join(str(int(episode.held)) for episode in episodes),
        }
        path = ROOT / self.result(training["steps"])
        path.write_text(json.dumps(result, indent=1) + "\n")
        won = sum(episode.success for episode in episodes)
        print(f"{self.name}, {training['steps']} steps: {won} of {len(episodes)}", flush=True)


def evaluation_parser(description: str | None, tasks: Iterable[str]) -> argparse.ArgumentParser:
    """Returns the options that evaluations of both sides have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", metavar="RUN", type=Run)
    add("--task", choices=tuple(tasks), required=True)
    add("--episodes", type=int, default=EPISODES)
    add("--seed", type=int, default=FIRST_SEED)
    add("--steps", type=int, nargs="+", help="only the checkpoints after so many steps")
    return parser


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
