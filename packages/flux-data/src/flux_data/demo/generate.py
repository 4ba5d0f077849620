"""Records scripted demonstrations of the simulated ALOHA as a LeRobot v2.1 dataset."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_core import __version__
from flux_core.errors import DataError, UsageError
from flux_core.robots import robot_spec
from flux_core.sim import AlohaSim
from rich.console import Console
from rich.progress import track

from ..lerobot_writer import EpisodeWriter, Layout, write_metadata
from .transfer_cube import TASK, execute, run_script

MAX_FAILURE_SHARE = 0.5
"""A script that fails more often than this is broken, not unlucky."""


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What is recorded: `episodes` successful ones, from the seeds `seed`, `seed` + 1, ..."""

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
    """Writes the dataset and returns what was attempted.

    The script is first played without images, so that only successful episodes are rendered.
    """
    if settings.out.exists() and any(settings.out.iterdir()):
        raise UsageError(f"{settings.out}: is not empty. Choose another --out or remove it")
    settings.out.mkdir(parents=True, exist_ok=True)
    planned, attempts = plan_episodes(settings)
    jobs = [(settings, episode) for episode in planned]
    console = Console(stderr=True)
    context = multiprocessing.get_context("spawn")
    with context.Pool(settings.workers) as pool:
        recorded = pool.imap(record, jobs)
        label = "recording demonstrations"
        stats = list(track(recorded, label, total=len(jobs), console=console))
    episodes = [
        {"episode_index": e.index, "tasks": [TASK], "length": e.length, "seed": e.seed}
        for e in planned
    ]
    write_metadata(settings.layout, TASK, episodes, stats)
    facts = {
        "attempts": attempts,
        "successes": len(planned),
        "seeds": [episode.seed for episode in planned],
        "speed": settings.speed,
        "noise": settings.noise,
        "flux": __version__,
    }
    (settings.out / "meta" / "demo.json").write_text(json.dumps(facts, indent=1) + "\n")
    return facts


def plan_episodes(settings: DemoSettings) -> tuple[list[PlannedEpisode], int]:
    """Finds the first `episodes` seeds that succeed; returns them and the number of attempts."""
    planned: list[PlannedEpisode] = []
    attempts = first_index = 0
    with AlohaSim(cameras=()) as sim:
        while len(planned) < settings.episodes:
            seed = settings.seed + attempts
            result = run_script(seed, settings.speed, settings.noise, sim)
            attempts += 1
            if result.is_success:
                index = len(planned)
                planned.append(
                    PlannedEpisode(
                        index=index, seed=seed, length=result.steps, first_index=first_index
                    )
                )
                first_index += result.steps
            elif attempts >= 10 and len(planned) < MAX_FAILURE_SHARE * attempts:
                raise DataError(
                    f"demo aloha-sim: only {len(planned)} of {attempts} scripted episodes succeed "
                    f"at --speed {settings.speed} --noise {settings.noise}. Lower them"
                )
    return planned, attempts


_sims: dict[tuple[int, int], AlohaSim] = {}
"""The simulator of this worker process."""


def record(job: tuple[DemoSettings, PlannedEpisode]) -> dict[str, Any]:
    """Renders and writes one episode; returns its statistics."""
    settings, episode = job
    size = (settings.height, settings.width)
    if size not in _sims:
        _sims[size] = AlohaSim(height=settings.height, width=settings.width)
    sim = _sims[size]
    writer = EpisodeWriter(settings.layout, episode.index, episode.first_index)
    for action in execute(sim, episode.seed, settings.speed, settings.noise):
        writer.add(sim.state(), action, sim.render())
    stats = writer.close()
    if not sim.stages()["held_by_left_only"]:
        raise DataError(f"seed {episode.seed}: succeeded without rendering and failed with it")
    return stats
