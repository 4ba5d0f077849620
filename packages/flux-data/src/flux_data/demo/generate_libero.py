"""Records scripted demonstrations of LIBERO-Object as a LeRobot v2.1 dataset."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from rich.progress import Progress

from flux_core import __version__
from flux_core.errors import DataError
from flux_core.robots import robot_spec
from flux_core.sim import LIBERO_IMAGE_SIZE, LiberoSim, LiberoTask, choose_tasks, libero_tasks

from ..lerobot.recorder import EpisodeRecorder, robot_features, video_key
from ..lerobot.writer import Episode, WriterV21, check_new, write_json
from .generate import MAX_FAILURE_SHARE, MIN_ATTEMPTS, new_progress, worker_processes
from .libero_object import SUITE, execute

NOTE = "scripted, with the simulator's knowledge; not the human demonstrations of LIBERO"


@dataclass(frozen=True, kw_only=True)
class LiberoDemoSettings:
    """What to record.

    Attributes:
        out: a new or empty directory.
        tasks: tasks by number, name or part of the name; empty for all ten.
        episodes: number of successful episodes to record per task.
        seed: seed of each task's first attempt; each further attempt uses the next number.
        workers: number of processes.
        noise: noise of the executed movements, 1 being 0.05 m; the recorded ones have none.
        antialiased: whether the images are those of LIBERO, or jagged and faster to render.
    """

    out: Path
    tasks: tuple[str, ...]
    episodes: int
    seed: int
    workers: int
    noise: float
    antialiased: bool


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A start to play, and the folder for its videos."""

    task: LiberoTask
    seed: int
    noise: float
    antialiased: bool
    folder: Path


def generate_libero(settings: LiberoDemoSettings) -> dict[str, Any]:
    """Writes the dataset and returns the content of its `meta/demo.json`.

    Only episodes that reach the benchmark's goal are kept. The same settings write the same
    dataset, whatever the number of workers.

    Raises:
        UsageError: `out` is not a new or empty directory, or a task is unknown.
        MissingDependencyError: LIBERO is not installed.
        DataError: the script fails too often at this noise, or a worker was killed.
    """
    check_new(settings.out)
    every = libero_tasks(SUITE)
    labels = [(task.name, task.language) for task in every]
    tasks = [every[i] for i in choose_tasks(SUITE, labels, settings.tasks)]
    spec = robot_spec("libero")
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    features = robot_features(spec, LIBERO_IMAGE_SIZE, LIBERO_IMAGE_SIZE)
    writer = WriterV21(settings.out, fps=spec.control_hz, robot_type=spec.name, features=features)
    by_task: dict[str, dict[str, Any]] = {}
    with writer, new_progress() as progress:
        for task in tasks:
            # One pool per task: its workers load that task's scene and end with the task.
            with worker_processes(settings.workers) as pool:
                by_task[task.name] = _record_task(settings, task, writer, pool, progress)
        facts = _facts(settings, by_task)
        write_json(writer.folder / "meta" / "demo.json", facts)
    return facts


def _record_task(
    settings: LiberoDemoSettings,
    task: LiberoTask,
    writer: WriterV21,
    pool: Executor,
    progress: Progress,
) -> dict[str, Any]:
    """Adds the task's first `episodes` successes to the dataset; returns the counts."""
    seeds: list[int] = []
    attempts = 0
    bar = progress.add_task(task.language, total=settings.episodes)
    for seed, episode in _attempts(settings, task, writer, pool):
        attempts += 1
        if episode is not None:
            writer.add(episode)
            seeds.append(seed)
            progress.advance(bar)
        elif attempts >= MIN_ATTEMPTS and len(seeds) < (1 - MAX_FAILURE_SHARE) * attempts:
            raise DataError(
                f"demo {SUITE}: only {len(seeds)} of {attempts} scripted episodes of "
                f"{task.name} succeed at --noise {settings.noise:g}. Lower it"
            )
        if len(seeds) == settings.episodes:
            break
    return {"attempts": attempts, "successes": len(seeds), "seeds": seeds}


def _attempts(
    settings: LiberoDemoSettings, task: LiberoTask, writer: WriterV21, pool: Executor
) -> Iterator[tuple[int, Episode | None]]:
    """Plays one seed after another, endlessly; None stands for a failure.

    A batch has one seed per worker, so that little is played beyond the last episode needed.
    """
    for first in count(settings.seed, settings.workers):
        seeds = range(first, first + settings.workers)
        jobs = [
            Attempt(
                task=task,
                seed=seed,
                noise=settings.noise,
                antialiased=settings.antialiased,
                folder=writer.staging(f"{task.name}_{seed}"),
            )
            for seed in seeds
        ]
        yield from zip(seeds, pool.map(_record, jobs), strict=True)


def _facts(settings: LiberoDemoSettings, by_task: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "note": NOTE,
        "attempts": sum(task["attempts"] for task in by_task.values()),
        "successes": sum(task["successes"] for task in by_task.values()),
        "tasks": by_task,
        "noise": settings.noise,
        "antialiased": settings.antialiased,
        "flux": __version__,
    }


_sims: dict[LiberoTask, LiberoSim] = {}
"""The simulator of this worker process."""


def _record(attempt: Attempt) -> Episode | None:
    """Plays and films one episode; returns None if it does not reach the goal."""
    if attempt.task not in _sims:
        _sims[attempt.task] = LiberoSim(attempt.task, antialiased=attempt.antialiased)
    sim = _sims[attempt.task]
    features = robot_features(sim.spec, sim.size, sim.size)
    with EpisodeRecorder(attempt.folder, sim.spec.control_hz, features) as recorder:
        for action in execute(sim, attempt.seed, attempt.noise):
            images = {video_key(camera): image for camera, image in sim.render().items()}
            recorder.add({"observation.state": sim.state(), "action": action, **images})
        if not sim.check_success():
            return None
        return recorder.close(attempt.task.language, seed=attempt.seed)
