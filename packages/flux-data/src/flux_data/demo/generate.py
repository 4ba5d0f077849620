"""Records scripted demonstrations of the simulated ALOHA as a LeRobot v2.1 dataset.

The script is first played without images, which is far cheaper, to find the seeds that succeed;
any process can then render any of them.
"""

from __future__ import annotations

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
from flux_core.errors import DataError
from flux_core.robots import robot_spec
from flux_core.sim import AlohaSim

from ..lerobot.recorder import EpisodeRecorder, robot_features, video_key
from ..lerobot.writer import Episode, WriterV21, check_new, write_json
from .transfer_cube import TASK, ScriptResult, execute, run_script

MAX_FAILURE_SHARE = 0.5
"""A script with a higher failure rate is broken, not unlucky."""
MIN_ATTEMPTS = 10
"""Number of attempts before the success rate is judged."""


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What to record.

    Attributes:
        out: a new or empty directory.
        episodes: number of successful episodes to record.
        seed: seed of the first attempt; each further attempt uses the next number.
        workers: number of processes.
        speed: speed of the script; 1 is unhurried.
        noise: noise of the executed commands, rad; the recorded ones have none.
        height: height of the images in pixels, even.
        width: width of the images in pixels, even.
    """

    out: Path
    episodes: int
    seed: int
    workers: int
    speed: float
    noise: float
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class PlannedEpisode:
    """A seed with which the script succeeds, and the folder for its videos."""

    seed: int
    folder: Path


def generate(settings: DemoSettings) -> dict[str, Any]:
    """Writes the dataset and returns the content of its `meta/demo.json`.

    The same settings write the same dataset, whatever the number of workers.

    Raises:
        UsageError: `out` is not a new or empty directory.
        DataError: the script fails too often at this speed and noise.
    """
    check_new(settings.out)
    AlohaSim(cameras=()).close()  # reports a missing dependency once, not in every worker
    spec = robot_spec("aloha-sim")
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    features = robot_features(spec, settings.height, settings.width)
    writer = WriterV21(settings.out, fps=spec.control_hz, robot_type=spec.name, features=features)
    workers = min(settings.workers, settings.episodes)
    context = multiprocessing.get_context("spawn")
    with writer, context.Pool(workers, ignore_interrupt) as pool, new_progress() as progress:
        planned, attempts = plan_episodes(settings, writer, pool, progress)
        recorded = pool.imap(_record, [(settings, episode) for episode in planned])
        for episode in progress.track(recorded, len(planned), description="recording episodes"):
            writer.add(episode)
        facts = _facts(settings, planned, attempts)
        write_json(writer.folder / "meta" / "demo.json", facts)
    return facts


def plan_episodes(
    settings: DemoSettings, writer: WriterV21, pool: Pool, progress: Progress
) -> tuple[list[PlannedEpisode], int]:
    """Finds the first `episodes` seeds that succeed; returns them and the number of attempts."""
    planned: list[PlannedEpisode] = []
    attempts = 0
    bar = progress.add_task("looking for seeds", total=settings.episodes)
    for seed, result in _attempts(settings, pool):
        attempts += 1
        if result.is_success:
            progress.advance(bar)
            folder = writer.staging(f"seed_{seed}")
            planned.append(PlannedEpisode(seed=seed, folder=folder))
        elif attempts >= MIN_ATTEMPTS and len(planned) < (1 - MAX_FAILURE_SHARE) * attempts:
            raise DataError(
                f"demo aloha-sim: only {len(planned)} of {attempts} scripted episodes succeed "
                f"at --speed {settings.speed:g} --noise {settings.noise:g}. Lower these values"
            )
        if len(planned) == settings.episodes:
            break
    return planned, attempts


def _attempts(settings: DemoSettings, pool: Pool) -> Iterator[tuple[int, ScriptResult]]:
    """Plays the script on one seed after another, in endless batches."""
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


def new_progress() -> Progress:
    """Returns progress bars on stderr."""
    return Progress(console=Console(stderr=True))


def ignore_interrupt() -> None:
    """Ignores Ctrl-C, because the parent stops its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


_sims: dict[tuple[int, int], AlohaSim] = {}
"""The simulators of this worker process, by image size."""


def _worker_sim(settings: DemoSettings) -> AlohaSim:
    size = (settings.height, settings.width)
    if size not in _sims:
        _sims[size] = AlohaSim(height=settings.height, width=settings.width)
    return _sims[size]


def _attempt(job: tuple[DemoSettings, int]) -> ScriptResult:
    """Plays one seed without images."""
    settings, seed = job
    return run_script(seed, settings.speed, settings.noise, _worker_sim(settings))


def _record(job: tuple[DemoSettings, PlannedEpisode]) -> Episode:
    """Renders one episode."""
    settings, episode = job
    sim, spec = _worker_sim(settings), robot_spec("aloha-sim")
    features = robot_features(spec, settings.height, settings.width)
    with EpisodeRecorder(episode.folder, spec.control_hz, features) as recorder:
        for action in execute(sim, episode.seed, settings.speed, settings.noise):
            images = {video_key(camera): image for camera, image in sim.render().items()}
            recorder.add({"observation.state": sim.state(), "action": action, **images})
        if not sim.stages()["held_by_left_only"]:
            raise DataError(
                f"seed {episode.seed}: expected the success that it had without rendering, got a "
                "failure. The simulation is not deterministic here"
            )
        return recorder.close(TASK, seed=episode.seed)
