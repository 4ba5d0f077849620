"""Measures how often a policy succeeds in simulation, in which mode, precision and disturbance.

    python benchmarks/success.py --jobs 2 --out benchmarks/results/success_2cores.json
    python benchmarks/success.py --bundle BUNDLE --suites aloha-insertion --rows horizons
    python benchmarks/success.py --rows precisions --calibrate demo_output/demonstrations

All rows of a suite run the same seeds on simulated time, so that two rows can be compared seed by
seed. Groups of rows:

  modes         sync, async and rtc, at delays of 0, 8, 12 and 16 control steps
  horizons      8, 16, 24 and 32 steps of a chunk are executed
  precisions    every precision of the bundle on every engine of this machine's processor
  disturbances  pictures brighter, darker, blurred or covered; noise on the joints; a moved object

"lost" are the seeds that the reference (sync, no delay, fp32 on onnxruntime, undisturbed) wins and
the row loses, "won" the opposite. A precision that `flux-export` refuses is a row with the reason.
Finished episodes are kept in --work, so that a run that was ended goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from disturbed_robot import (
    Blur,
    Brightness,
    Disturbance,
    MovedObject,
    NoisyJoints,
    Occlusion,
    disturbed,
)
from kept_episodes import KeptEpisodes, in_groups, play_jobs, policy_digest, print_rows

from flux_core.agreement import Changes
from flux_core.robots import robot_spec
from flux_runtime.bench import hardware
from flux_runtime.control.latency import StageTimes
from flux_runtime.control.session import (
    RunOptions,
    Session,
    connected,
    drive,
    open_policy,
    shipped_policy,
)
from flux_runtime.control.success import wilson_interval
from flux_runtime.engines.status import engine_status
from flux_runtime.robots.aloha_sim import AlohaInsertionRobot, AlohaSimRobot

ROBOT = "aloha-sim"
SUITES: Mapping[str, type[AlohaSimRobot]] = {
    "aloha-transfer-cube": AlohaSimRobot,
    "aloha-insertion": AlohaInsertionRobot,
}
FIRST_SEED = 10_000
DELAYS = (0, 8, 12, 16)
HORIZONS = (8, 16, 24, 32)
DISTURBANCES: Mapping[str, Callable[[], Disturbance]] = {
    "none": Disturbance,
    "brightness x 0.7": lambda: Brightness(0.7),
    "brightness x 1.3": lambda: Brightness(1.3),
    "blur, 2 pixels of 256": lambda: Blur(2.0),
    "5 % of each picture covered": lambda: Occlusion(0.05),
    "joints off by 0.01 rad": lambda: NoisyJoints(0.01, robot_spec(ROBOT)),
    "object moved by 3 cm at step 30": lambda: MovedObject(0.03, at_step=30),
}
PRECISIONS = (
    ("fp32", "onnxruntime"),
    ("fp32", "openvino"),
    ("fp32", "openvino-bf16"),
    ("bf16", "openvino"),
    ("int8", "onnxruntime"),
    ("int8", "openvino"),
    ("fp8", "openvino"),
)
Variant = tuple[str, str]
"""A precision and an engine."""
GROUPS = ("modes", "horizons", "precisions", "disturbances")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a row of the table is measured with; None: as the bundle says."""

    suite: str
    mode: str = "sync"
    delay: int = 0
    horizon: int | None = None
    precision: str = "fp32"
    engine: str = "onnxruntime"
    disturbance: str = "none"

    def __str__(self) -> str:
        usual = Row(suite=self.suite)
        parts = [f"{self.mode}, delay {self.delay}"]
        if self.horizon is not None:
            parts.append(f"horizon {self.horizon}")
        if (self.precision, self.engine) != (usual.precision, usual.engine):
            parts.append(f"{self.precision} on {self.engine}")
        if self.disturbance != usual.disturbance:
            parts.append(self.disturbance)
        return "; ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Some episodes of a row, for one process."""

    row: Row
    bundle: Path
    seeds: Sequence[int]


def main() -> int:
    """Measures what is missing, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--bundle", type=Path, default=shipped_policy(ROBOT), help="fp32; default: as shipped")
    add("--suites", nargs="+", choices=SUITES, default=["aloha-transfer-cube"])
    add("--rows", nargs="+", choices=GROUPS, default=GROUPS)
    add("--episodes", type=int, default=200, help="seeds per row (default: 200)")
    add("--seed", type=int, default=FIRST_SEED)
    add("--calibrate", action="append", default=[], metavar="DATASET", help="as in flux-export")
    add("--jobs", type=int, default=1, help="processes (default: 1)")
    add("--work", type=Path, default=Path("demo_output/success"), help="what is kept")
    add("--kept", action="store_true", help="run nothing; print what --work holds")
    add("--out", type=Path, help="write the figures as JSON")
    add("--markdown", action="store_true", help="print the table as in docs/numbers.md")
    options = parser.parse_args()
    rows = wanted_rows(options)
    refused = {} if options.kept else measure(options, rows)
    episodes = kept(options).read()
    figures = [summary(row, episodes, refused.get(variant(row))) for row in rows]
    print_rows(table_rows(figures), is_markdown=options.markdown, width=160)
    if options.out:
        data = {"hardware": hardware(), "policy": policy_digest(options.bundle), "rows": figures}
        options.out.write_text(json.dumps(data, indent=1) + "\n")
    return 0


def kept(options: argparse.Namespace) -> KeptEpisodes:
    """Returns the kept episodes of the policy."""
    return KeptEpisodes(options.work / "episodes.jsonl", options.bundle)


def wanted_rows(options: argparse.Namespace) -> list[Row]:
    """Returns the rows of the options, each once; the reference of each suite comes first."""
    rows = dict.fromkeys(row for suite in options.suites for row in rows_of(suite, options))
    return list(rows)


def rows_of(suite: str, options: argparse.Namespace) -> Iterator[Row]:
    """Yields the rows of a suite."""
    yield Row(suite=suite)
    if "modes" in options.rows:
        for delay in DELAYS:
            for mode in ("sync", "async", "rtc") if delay else ("sync",):
                yield Row(suite=suite, mode=mode, delay=delay)
    if "horizons" in options.rows:
        for horizon in HORIZONS:
            yield Row(suite=suite, horizon=horizon)
    if "precisions" in options.rows:
        for precision, engine in PRECISIONS:
            if engine_status(engine).ok and (precision != "fp8" or options.calibrate):
                yield Row(suite=suite, precision=precision, engine=engine)
    if "disturbances" in options.rows:
        for name in DISTURBANCES:
            yield Row(suite=suite, disturbance=name)


def variant(row: Row) -> Variant:
    """Returns the precision and the engine of a row."""
    return row.precision, row.engine


def measure(options: argparse.Namespace, rows: Sequence[Row]) -> dict[Variant, str]:
    """Exports and checks what is missing, and runs the episodes that are not kept yet.

    Returns:
        precision and engine -> why they were refused.
    """
    bundles, refused = dict[Variant, Path](), dict[Variant, str]()
    for precision, engine in dict.fromkeys(map(variant, rows)):
        try:
            bundles[precision, engine] = bundle_in(precision, options)
            check(bundles[precision, engine], engine)
        except subprocess.CalledProcessError as error:
            refused[precision, engine] = str(error.stderr).strip().splitlines()[-1]
            print(f"{precision} on {engine}: {refused[precision, engine]}", file=sys.stderr)
    rows = [row for row in rows if variant(row) not in refused]
    jobs = missing_jobs(options, rows, bundles)
    play_jobs(played, jobs, kept(options), processes=options.jobs)
    return refused


def bundle_in(precision: str, options: argparse.Namespace) -> Path:
    """Returns the bundle in a precision, exporting it if it is not there yet."""
    if precision == "fp32":
        return options.bundle
    path = options.work / f"{policy_digest(options.bundle)}_{precision}"
    if not path.exists():
        more = [word for dataset in options.calibrate for word in ("--calibrate", dataset)]
        run("flux-export", options.bundle, "--precision", precision, "--out", path, *more)
    return path


def check(bundle: Path, engine: str) -> None:
    """Replays the bundle's golden on an engine."""
    run("flux-runtime", "check", bundle, "--engine", engine)


def run(command: str, *arguments: object) -> None:
    """Runs one of our commands, and keeps what it says of an error."""
    words = [str(Path(sys.executable).parent / command), *map(str, arguments)]
    # What it prints of its success is of no interest here.
    subprocess.run(words, check=True, capture_output=True, text=True)


def missing_jobs(
    options: argparse.Namespace, rows: Sequence[Row], bundles: Mapping[Variant, Path]
) -> list[Job]:
    """Returns the episodes that are not kept yet, a few per job."""
    have = {(row_of(episode), episode["seed"]) for episode in kept(options).read()}
    jobs: list[Job] = []
    for row in rows:
        seeds = range(options.seed, options.seed + options.episodes)
        missing = [seed for seed in seeds if (row, seed) not in have]
        bundle = bundles[variant(row)]
        jobs += [Job(row=row, bundle=bundle, seeds=some) for some in in_groups(missing)]
    return jobs


def played(job: Job) -> list[dict[str, Any]]:
    """Runs the episodes of a job in this process."""
    with opened(job) as session:
        results = [drive(session, seed) for seed in job.seeds]
    return [
        {
            **asdict(job.row),
            "seed": result.seed,
            "success": result.success,
            "strict_success": result.strict_success,
            "steps": result.steps,
            "stages": result.stages,
        }
        for result in results
    ]


@contextmanager
def opened(job: Job) -> Iterator[Session]:
    """Opens the policy and the disturbed robot of a job."""
    row, times = job.row, StageTimes()
    robot = disturbed(SUITES[row.suite], DISTURBANCES[row.disturbance]())
    options = RunOptions(
        robot=ROBOT,
        bundle=job.bundle,
        mode=row.mode,  # type: ignore[arg-type]
        inference_delay=row.delay,
        engine=row.engine,
        changes=Changes(execution_horizon=row.horizon),
    )
    policy = open_policy(options, robot.spec, times, tasks=None)
    if robot.task in policy.manifest.tasks.values():
        options = replace(options, task=robot.task)
    with connected(options, robot, policy, times) as session:
        yield session


def row_of(episode: Mapping[str, Any]) -> Row:
    """Returns the row of an episode."""
    return Row(**{name: episode[name] for name in asdict(Row(suite=""))})


def summary(row: Row, episodes: Sequence[Mapping[str, Any]], refused: str | None) -> dict[str, Any]:
    """Returns the figures of a row; `points` is the difference to the reference on the seeds that
    both have, in percentage points."""
    own = {each["seed"]: each for each in episodes if row_of(each) == row}
    found: dict[str, Any] = {**asdict(row), "title": str(row), "episodes": len(own)}
    if refused is not None:
        return {**found, "refused": refused}
    if not own:
        return found
    for name in ("success", "strict_success"):
        won = sum(bool(each[name]) for each in own.values())
        found[name] = {"episodes": won, "ci95": list(wilson_interval(won, len(own)))}
    reference = Row(suite=row.suite)
    others = {each["seed"]: each for each in episodes if row_of(each) == reference}
    pairs = [(each, others[seed]) for seed, each in own.items() if seed in others]
    found["pairs"] = len(pairs)
    found["lost"] = [a["seed"] for a, b in pairs if b["success"] and not a["success"]]
    found["won"] = [a["seed"] for a, b in pairs if a["success"] and not b["success"]]
    found["points"] = 100 * (len(found["won"]) - len(found["lost"])) / max(1, len(pairs))
    return found


def table_rows(figures: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """Yields the table, its header first; rows that were not measured are left out."""
    yield ["suite", "row", "success (95 %)", "held at the end", "lost", "won", "points"]
    for each in figures:
        head = [each["suite"], each["title"]]
        if "refused" in each:
            yield [*head, f"refused: {each['refused']}", "", "", "", ""]
        elif each["episodes"]:
            low, high = (f"{100 * bound:.1f}" for bound in each["success"]["ci95"])
            count = f"{each['success']['episodes']} of {each['episodes']} ({low} to {high} %)"
            held = str(each["strict_success"]["episodes"])
            paired = [str(len(each["lost"])), str(len(each["won"])), f"{each['points']:+.1f}"]
            yield [*head, count, held, *paired]


if __name__ == "__main__":
    sys.exit(main())
