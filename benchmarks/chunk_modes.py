"""Measures how chunks join: every mode at every inference delay, on the same simulated episodes.

    python benchmarks/chunk_modes.py --jobs 2 --out benchmarks/results/chunk_modes_2cores.json
    python benchmarks/chunk_modes.py --modes async --limits velocity --episodes 40 --bundle BUNDLE
    python benchmarks/chunk_modes.py --realtime 10 --modes sync rtc

A cell is a mode, a delay in control steps and the limits. `demonstrations`: acceleration and jerk
are 1.5 times what 99.9 % of the demonstrations need, at least the defaults, as docs/safety.md
advises. `robot`: the defaults that a real robot gets that states none, from its velocity; the
demonstrations themselves exceed them. `velocity`: what the simulated robot states. All cells run
the same seeds on simulated time. Per cell, over all episodes:

  limited        ticks whose command the safety filter changed (any flag), of all ticks
  off            ticks in which that moved a joint by more than 0.01 rad
  jump, ...      the largest step between the last action of a chunk and the first of the next, and
                 the largest acceleration and jerk of the ticks around it, over the joints in rad:
                 of the actions asked for, and of the commands sent
  lost           episodes that sync without a delay wins and this cell loses

Finished episodes are kept in --work, so that a run that was ended goes on where it stopped. With
--realtime, the command `flux-runtime run --realtime` drives the episodes, and the machine's own
speed is the delay.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from kept_episodes import KeptEpisodes, in_groups, play_jobs, policy_digest, print_rows
from numpy.typing import NDArray

from flux_core.robots import RobotSpec, motion_limits, robot_spec
from flux_runtime.bench import hardware
from flux_runtime.control.episode import EpisodeResult, run_episode
from flux_runtime.control.session import Session, loop_setup, make_loop, shipped_policy
from flux_runtime.control.success import wilson_interval
from flux_runtime.engines.core import load_core
from flux_runtime.run.command import RunOptions, open_session

ROBOT = "aloha-sim"
MODES = ("sync", "async", "ensemble", "rtc")
DELAYS = (0, 3, 8, 12, 16)
LIMITS = ("demonstrations", "robot", "velocity")
ROOM = 1.5
"""Of limits over what the demonstrations need; see docs/safety.md, "Your own values"."""
DEMONSTRATED_ACCELERATION = (
    *(0.0046, 17.8, 13.9, 0.0177, 7.51, 7.0, 94.9),
    *(6.79, 15.3, 20.6, 46.2, 18.0, 46.5, 119.1),
)
DEMONSTRATED_JERK = (
    *(0.232, 664.2, 611.3, 0.883, 278.7, 320.1, 3511.0),
    *(208.8, 636.7, 824.9, 3624.0, 894.8, 3638.0, 4861.0),
)
"""The lines `acceleration q999` and `jerk q999` of `flux-data stats DEMONSTRATIONS --motion`, for
those of the shipped policy."""
FIRST_SEED = 10_000
SAME_AS_SYNC = ("async", "rtc")
"""Modes that are the sync mode without a delay; there, a few episodes only show that they are."""
NUM_SAME = 5
KINDS = ("POSITION", "VELOCITY", "ACCELERATION", "JERK")
FIGURES = ("jump", "acceleration", "jerk")
OFF_RAD = 0.01
"""A change that matters: about half a degree. The rows within a chunk are rough by less."""
ASKED = ("asked: step, rad", "rad/s^2", "rad/s^3")
SENT = ("sent: step, rad", "rad/s^2", "rad/s^3")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What a row of the table is measured with; `delay` is None in real time."""

    mode: str
    delay: int | None
    limits: str = LIMITS[0]


@dataclass(frozen=True, kw_only=True)
class Job:
    """Some episodes of a cell, for one process."""

    cell: Cell
    bundle: Path
    seeds: Sequence[int]


def main() -> int:
    """Measures what is missing, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--modes", nargs="+", choices=MODES, default=MODES)
    add("--delays", nargs="+", type=int, default=DELAYS, help="in control steps")
    add("--limits", nargs="+", choices=LIMITS, default=LIMITS[:1])
    add("--episodes", type=int, default=100, help="seeds per cell (default: 100)")
    add("--seed", type=int, default=FIRST_SEED)
    add("--bundle", type=Path, default=shipped_policy(ROBOT), help="default: the shipped policy")
    add("--jobs", type=int, default=1, help="processes (default: 1)")
    add("--work", type=Path, default=Path("demo_output/chunk_modes.jsonl"))
    add("--realtime", type=int, default=0, metavar="N", help="N episodes per mode in real time")
    add("--kept", action="store_true", help="run nothing; print what --work holds")
    add("--out", type=Path, help="write the figures as JSON")
    add("--markdown", action="store_true", help="print the table as in docs/numbers.md")
    options = parser.parse_args()
    cells = wanted_cells(options)
    if options.realtime and not options.kept:
        measure_in_real_time(options, cells)
    elif not options.kept:
        measure(options, cells)
    episodes = kept(options).read()
    figures = [summary(cell, episodes) for cell in cells]
    print_rows(table_rows(figures), is_markdown=options.markdown, width=200)
    if options.out:
        data = {"hardware": hardware(), "policy": policy_digest(options.bundle), "cells": figures}
        options.out.write_text(json.dumps(data, indent=1) + "\n")
    return 0


def kept(options: argparse.Namespace) -> KeptEpisodes:
    """Returns the work file's episodes of the policy."""
    return KeptEpisodes(options.work, options.bundle)


def wanted_cells(options: argparse.Namespace) -> list[Cell]:
    """Returns the cells of the options; a mode in real time has one, whatever the delays."""
    if options.realtime:
        return [Cell(mode=mode, delay=None, limits="robot") for mode in options.modes]
    return [
        Cell(mode=mode, delay=delay, limits=limits)
        for limits in options.limits
        for delay in options.delays
        for mode in options.modes
    ]


def seeds_of(cell: Cell, options: argparse.Namespace) -> range:
    """Returns the seeds of a cell's episodes."""
    count = options.realtime or options.episodes
    if cell.delay == 0 and cell.mode in SAME_AS_SYNC:
        count = min(count, NUM_SAME)
    return range(options.seed, options.seed + count)


def measure(options: argparse.Namespace, cells: Sequence[Cell]) -> None:
    """Runs the episodes that are not kept yet."""
    play_jobs(played, missing_jobs(options, cells), kept(options), processes=options.jobs)


def missing_jobs(options: argparse.Namespace, cells: Sequence[Cell]) -> list[Job]:
    """Returns the episodes that are not kept yet, a few per job."""
    have = {(key_of(episode), episode["seed"]) for episode in kept(options).read()}
    jobs: list[Job] = []
    for cell in cells:
        missing = [seed for seed in seeds_of(cell, options) if (cell, seed) not in have]
        jobs += [Job(cell=cell, bundle=options.bundle, seeds=some) for some in in_groups(missing)]
    return jobs


def played(job: Job) -> list[dict[str, Any]]:
    """Runs the episodes of a job in this process."""
    cell = job.cell
    assert cell.delay is not None, "a cell of simulated time"
    run_options = RunOptions(
        robot=ROBOT,
        bundle=job.bundle,
        mode=cell.mode,  # type: ignore[arg-type]
        inference_delay=cell.delay,
    )
    with open_session(run_options) as session:
        assert isinstance(session, Session), "the robot is simulated"
        session = replace(session, spec=limited(session.spec, cell.limits))
        return [described(cell, *driven(session, seed), session.spec) for seed in job.seeds]


def limited(spec: RobotSpec, limits: str) -> RobotSpec:
    """Returns the robot with one of `LIMITS`."""
    if limits == "velocity":
        return spec
    spec = motion_limits(spec).spec
    if limits == "robot":
        return spec
    rates = zip(spec.max_acceleration, DEMONSTRATED_ACCELERATION, strict=True)
    jerks = zip(spec.max_jerk, DEMONSTRATED_JERK, strict=True)
    return replace(
        spec,
        max_acceleration=tuple(max(least, ROOM * value) for least, value in rates),
        max_jerk=tuple(max(least, ROOM * value) for least, value in jerks),
    )


def driven(session: Session, seed: int) -> tuple[EpisodeResult, NDArray[np.float32]]:
    """Runs an episode; returns it with the actions that its chunks asked for, (T, A).

    In a tick without an action, the command that was sent stands for it.
    """
    loop, asked = make_loop(session.source, loop_setup(session)), []
    result = run_episode(
        robot=session.robot,
        spec=session.spec,
        source=session.source,
        loop=loop,
        prompt=session.prompt,
        seed=seed,
        max_steps=session.options.max_steps,
        on_tick=lambda step: asked.append(loop.asked()),
    )
    commands = np.stack(result.trace.commands)
    rows = np.stack(asked)
    return result, np.where(np.isfinite(rows), rows, commands)


def described(
    cell: Cell, result: EpisodeResult, asked: NDArray[np.float32], spec: RobotSpec
) -> dict[str, Any]:
    """Returns an episode on simulated time as a line of the work file."""
    commands, flags = np.stack(result.trace.commands), np.asarray(result.trace.flags)
    return {
        **asdict(cell),
        "seed": result.seed,
        "success": result.success,
        "strict_success": result.strict_success,
        "commands": hashlib.sha256(commands.tobytes()).hexdigest()[:16],
        **counts(flags),
        "off": int(np.count_nonzero(moved(asked, commands, spec) > OFF_RAD)),
        "asked": border_figures(asked, flags, spec),
        "sent": border_figures(commands, flags, spec),
    }


def moved(
    asked: NDArray[np.float32], commands: NDArray[np.float32], spec: RobotSpec
) -> NDArray[np.float32]:
    """Returns how far the safety filter moved the farthest joint in rad, per tick, (T,)."""
    return np.abs(asked - commands)[:, np.array(spec.units) == "rad"].max(axis=1)


def counts(flags: NDArray[np.int64]) -> dict[str, Any]:
    """Returns the ticks of an episode by what the safety filter did."""
    core = load_core()
    bits = {kind.lower(): getattr(core, f"CLIPPED_{kind}") for kind in KINDS}
    return {
        "ticks": len(flags),
        "limited": int(np.count_nonzero(flags & sum(bits.values()))),
        "limited_by": {kind: int(np.count_nonzero(flags & bit)) for kind, bit in bits.items()},
        "held": int(np.count_nonzero(flags & core.HELD)),
        "chunks": int(np.count_nonzero(flags & core.NEW_CHUNK)),
    }


def border_figures(
    rows: NDArray[np.float32], flags: NDArray[np.int64], spec: RobotSpec
) -> dict[str, float]:
    """Returns the largest step, acceleration and jerk at the borders of chunks, over joints in rad.

    Args:
        rows: (T, A) actions or commands.
        flags: (T,) of the ticks. A border is the step to the first row of any chunk but the first.
        spec: of the robot.
    """
    joints = np.array(spec.units) == "rad"
    path = np.asarray(rows, np.float64)[:, joints]
    borders = np.flatnonzero(flags & load_core().NEW_CHUNK)[1:]
    found: dict[str, float] = {}
    for order, name in enumerate(FIGURES, start=1):
        # A difference of order n at i reads rows i to i + n; the step to row b is in n of them.
        differences = np.abs(np.diff(path, n=order, axis=0))
        at = np.concatenate([borders - 1 - before for before in range(order)])
        at = at[(at >= 0) & (at < len(differences))]
        scale = 1.0 if order == 1 else spec.control_hz**order
        found[name] = float(differences[at].max(initial=0.0) * scale)
    return found


def measure_in_real_time(options: argparse.Namespace, cells: Sequence[Cell]) -> None:
    """Runs each mode's episodes with the command, one mode after the other."""
    have = {key_of(episode) for episode in kept(options).read()}
    for cell in (cell for cell in cells if cell not in have):
        with tempfile.TemporaryDirectory() as folder:
            kept(options).add(driven_in_real_time(cell, options, Path(folder) / "recording"))


def driven_in_real_time(
    cell: Cell, options: argparse.Namespace, folder: Path
) -> list[dict[str, Any]]:
    """Runs the command, and reads what it printed and recorded."""
    words = ["run", "--robot", ROBOT, "--bundle", options.bundle, "--realtime", "--json"]
    words += ["--mode", cell.mode, "--episodes", options.realtime, "--seed", options.seed]
    command = [str(Path(sys.executable).parent / "flux-runtime"), *map(str, words)]
    done = subprocess.run([*command, "--record", folder], stdout=subprocess.PIPE, check=False)
    report = json.loads(done.stdout) if done.stdout else {}
    if done.returncode != 0:
        raise SystemExit(f"chunk_modes: {cell.mode}: {report.get('reason', 'see above')}")
    spec = motion_limits(robot_spec(ROBOT)).spec
    lines: list[dict[str, Any]] = []
    for number, episode in enumerate(report["episodes"]):
        with np.load(folder / f"episode_{number:06d}.npz") as recorded:
            flags, commands = recorded["flags"], recorded["command"]
        lines.append(
            {
                **asdict(cell),
                "seed": episode["seed"],
                "success": episode["success"],
                "strict_success": episode["strict_success"],
                **counts(flags),
                "sent": border_figures(commands, flags, spec),
                "inference_p50_ms": report["inference_p50_ms"],
                "events": report.get("event_counts", {}),
                "rtc": report["rtc"],
            }
        )
    return lines


def key_of(episode: Mapping[str, Any]) -> Cell:
    """Returns the cell of an episode."""
    return Cell(mode=episode["mode"], delay=episode["delay"], limits=episode["limits"])


def summary(cell: Cell, episodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the figures of a cell."""
    own = [episode for episode in episodes if key_of(episode) == cell]
    if not own:
        return {**asdict(cell), "episodes": 0}
    reference = replace(cell, mode="sync", delay=None if cell.delay is None else 0)
    others = {each["seed"]: each for each in episodes if key_of(each) == reference}
    pairs = [(each, others[each["seed"]]) for each in own if each["seed"] in others]
    found: dict[str, Any] = {**asdict(cell), "episodes": len(own)}
    for name in ("success", "strict_success"):
        won = sum(bool(each[name]) for each in own)
        found[name] = {"episodes": won, "ci95": list(wilson_interval(won, len(own)))}
    found["pairs"] = len(pairs)
    found["lost"] = [a["seed"] for a, b in pairs if b["success"] and not a["success"]]
    found["won"] = [a["seed"] for a, b in pairs if a["success"] and not b["success"]]
    for name in ("ticks", "limited", "held", "chunks"):
        found[name] = sum(each[name] for each in own)
    kinds = own[0]["limited_by"]
    found["limited_by"] = {kind: sum(each["limited_by"][kind] for each in own) for kind in kinds}
    found |= dict(largest(own))
    if "commands" in own[0]:
        found["off"] = sum(each["off"] for each in own)
        found["same_commands"] = sum(a["commands"] == b["commands"] for a, b in pairs)
    else:
        found |= {name: own[0][name] for name in ("inference_p50_ms", "events", "rtc")}
    return found


def largest(episodes: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, float]]]:
    """Yields the largest figures at borders, of the actions asked for and the commands sent, and
    the medians over the episodes, which one episode that goes wrong does not decide."""
    for name in ("asked", "sent"):
        if name in episodes[0]:
            values = {figure: [each[name][figure] for each in episodes] for figure in FIGURES}
            yield name, {figure: max(found) for figure, found in values.items()}
            yield f"{name}_median", {figure: median(found) for figure, found in values.items()}


def table_rows(figures: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """Yields the table, its header first; cells that were not measured are left out."""
    yield ["mode", "delay", "limits", "won (95 %)", "lost", "limited ticks", "off", *ASKED, *SENT]
    for each in figures:
        if not each["episodes"]:
            continue
        low, high = (f"{100 * bound:.0f}" for bound in each["success"]["ci95"])
        row = [each["mode"], "real time" if each["delay"] is None else str(each["delay"])]
        row += [each["limits"], f"{each['success']['episodes']} of {each['episodes']}"]
        row[-1] += f" ({low} to {high} %)"
        row += [str(len(each["lost"])), f"{each['limited']:,} of {each['ticks']:,}"]
        row.append(f"{each['off']:,}" if "off" in each else "")
        for name in ("asked", "sent"):
            found = each.get(name)
            row += [f"{found[figure]:,.3g}" for figure in FIGURES] if found else [""] * 3
        yield row


if __name__ == "__main__":
    sys.exit(main())
