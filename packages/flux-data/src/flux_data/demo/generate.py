"""Records scripted demonstrations of the simulated ALOHA as a LeRobot v2.1 dataset.

The script is first played without images, a fraction of the work, to find the seeds that succeed.
Their places in the dataset are then known, and any process may render any episode.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from flux_core import __version__
from flux_core.errors import DataError, UsageError
from flux_core.robots import robot_spec
from flux_core.sim import AlohaSim

from ..lerobot_writer import EpisodeWriter, Layout, write_metadata
from .transfer_cube import TASK, ScriptResult, execute, run_script

MAX_FAILURE_SHARE = 0.5
"""A script that fails more often than this is broken, not unlucky."""
MIN_ATTEMPTS = 10
"""Attempts before the share of failures is judged."""


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What is recorded.

    Attributes:
        out: a new or empty directory.
        episodes: successful ones to record.
        seed: of the first attempt; the next ones count up from it.
        workers: processes.
        speed: of the script; 1 is unhurried.
        noise: of the executed, not of the recorded commands, rad.
        height: of the images, pixels, even.
        width: of the images, pixels, even.
    """

    out: Path
    episodes: int
    seed: int
    workers: int
    speed: float
    noise: float
    height: int
    width: int

    @property
    def layout(self) -> Layout:
        """The dataset's layout."""
        spec = robot_spec("aloha-sim")
        return Layout(
            root=self.out, spec=spec, cameras=spec.cameras, height=self.height, width=self.width
        )


@dataclass(frozen=True, kw_only=True)
class PlannedEpisode:
    """A seed whose script succeeds, and its place in the dataset."""

    index: int
    seed: int
    length: int
    first_index: int


def generate(settings: DemoSettings) -> dict[str, Any]:
    """Writes the dataset and returns what `meta/demo.json` says of it.

    The same settings, whatever the number of workers, write the same dataset.

    Raises:
        UsageError: `out` is not a new or empty directory.
        DataError: the script fails too often at this speed and noise.
    """
    _check_out(settings.out)
    AlohaSim(cameras=()).close()  # what is missing is said here, once, not by every worker
    settings.out.mkdir(parents=True, exist_ok=True)
    workers = min(settings.workers, settings.episodes)
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, _ignore_interrupt) as pool, _progress() as progress:
        planned, attempts = plan_episodes(settings, pool, progress)
        recorded = pool.imap(_record, [(settings, episode) for episode in planned])
        stats = list(progress.track(recorded, len(planned), description="recording episodes"))
    episodes = [
        {"episode_index": e.index, "tasks": [TASK], "length": e.length, "seed": e.seed}
        for e in planned
    ]
    facts = _facts(settings, planned, attempts)
    meta = settings.out / "meta"
    meta.mkdir(exist_ok=True)
    (meta / "demo.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    write_metadata(settings.layout, TASK, episodes, stats)
    return facts


def plan_episodes(
    settings: DemoSettings, pool: Pool, progress: Progress
) -> tuple[list[PlannedEpisode], int]:
    """Finds the first `episodes` seeds that succeed; returns them and the number of attempts."""
    planned: list[PlannedEpisode] = []
    attempts = 0
    bar = progress.add_task("looking for seeds", total=settings.episodes)
    for seed, result in _attempts(settings, pool):
        attempts += 1
        if result.is_success:
            progress.advance(bar)
            last = planned[-1] if planned else None
            first_index = last.first_index + last.length if last else 0
            episode = PlannedEpisode(
                index=len(planned), seed=seed, length=result.steps, first_index=first_index
            )
            planned.append(episode)
        elif attempts >= MIN_ATTEMPTS and len(planned) < (1 - MAX_FAILURE_SHARE) * attempts:
            raise DataError(
                f"demo aloha-sim: only {len(planned)} of {attempts} scripted episodes succeed "
                f"at --speed {settings.speed:g} --noise {settings.noise:g}. Lower them"
            )
        if len(planned) == settings.episodes:
            break
    return planned, attempts


def _attempts(settings: DemoSettings, pool: Pool) -> Iterator[tuple[int, ScriptResult]]:
    """Plays the script on one seed after the other, without end, in batches."""
    first, batch = settings.seed, max(settings.workers, settings.episodes)
    while True:
        jobs = [(settings, seed) for seed in range(first, first + batch)]
        yield from zip(range(first, first + batch), pool.imap(_attempt, jobs), strict=True)
        first, batch = first + batch, settings.workers


def _facts(settings: DemoSettings, planned: list[PlannedEpisode], attempts: int) -> dict[str, Any]:
    return {
        "attempts": attempts,
        "successes": len(planned),
        "seeds": [episode.seed for episode in planned],
        "speed": settings.speed,
        "noise": settings.noise,
        "flux": __version__,
    }


def _check_out(out: Path) -> None:
    if out.is_dir() and any(out.iterdir()):
        raise UsageError(f"{out}: is not empty. Choose another --out or remove it")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file. Choose another --out")


def _progress() -> Progress:
    return Progress(console=Console(stderr=True))


def _ignore_interrupt() -> None:
    """Leaves Ctrl-C to the parent, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


_sims: dict[tuple[int, int], AlohaSim] = {}
"""The simulator of this worker process, by image size."""


def _worker_sim(settings: DemoSettings) -> AlohaSim:
    size = (settings.height, settings.width)
    if size not in _sims:
        _sims[size] = AlohaSim(height=settings.height, width=settings.width)
    return _sims[size]


def _attempt(job: tuple[DemoSettings, int]) -> ScriptResult:
    """Plays one seed without images."""
    settings, seed = job
    return run_script(seed, settings.speed, settings.noise, _worker_sim(settings))


def _record(job: tuple[DemoSettings, PlannedEpisode]) -> dict[str, Any]:
    """Renders and writes one episode; returns its statistics."""
    settings, episode = job
    sim = _worker_sim(settings)
    writer = EpisodeWriter(settings.layout, episode.index, episode.first_index)
    for action in execute(sim, episode.seed, settings.speed, settings.noise):
        writer.add(sim.state(), action, sim.render())
    stats = writer.close()
    if not sim.stages()["held_by_left_only"]:
        raise DataError(f"seed {episode.seed}: succeeded without rendering and failed with it")
    return stats
