"""Records scripted demonstrations of the simulated ALOHA as a LeRobot v2.1 dataset.

The script is first played without images, which is far cheaper, to find the seeds that succeed;
any process can then render any of them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from flux_core import __version__
from flux_core.errors import DataError
from flux_core.robots import RobotSpec, robot_spec
from flux_core.sim import AlohaArms

from ..lerobot.recorder import EpisodeRecorder, robot_features, video_key
from ..lerobot.writer import Episode, WriterV21, check_new, write_json
from .aloha_script import AlohaScript, ScriptResult
from .insertion import INSERTION
from .transfer_cube import TRANSFER_CUBE

SCRIPTS = {script.name: script for script in (TRANSFER_CUBE, INSERTION)}

MAX_FAILURE_SHARE = 0.5
"""A script with a higher failure rate is broken, not unlucky."""
MIN_ATTEMPTS = 10
"""Number of attempts before the success rate is judged."""


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What to record.

    Attributes:
        out: a new or empty directory.
        tasks: names among `SCRIPTS`.
        episodes: number of successful episodes to record, of each task.
        seed: seed of each task's first attempt; each further attempt uses the next number.
        workers: number of processes.
        speed: speed of the script; 1 is unhurried.
        noise: noise of the executed commands, rad; the recorded ones have none. None: each
            script's own.
        height: height of the images in pixels, even.
        width: width of the images in pixels, even.
        cameras: names among the robot's cameras.
    """

    out: Path
    tasks: tuple[str, ...]
    episodes: int
    seed: int
    workers: int
    speed: float
    noise: float | None
    height: int
    width: int
    cameras: tuple[str, ...]

    @property
    def spec(self) -> RobotSpec:
        """The robot with the recorded cameras only."""
        return replace(robot_spec("aloha-sim"), cameras=self.cameras)

    def noise_of(self, script: AlohaScript) -> float:
        """Returns the noise that `script` is played with, rad."""
        return script.noise_rad if self.noise is None else self.noise


@dataclass(frozen=True, kw_only=True)
class PlannedEpisode:
    """A seed with which a task's script succeeds, and the folder for its videos."""

    task: str
    seed: int
    folder: Path


@dataclass(frozen=True, kw_only=True)
class TaskPlan:
    """The episodes to record of one task, and how many attempts found them."""

    task: str
    episodes: list[PlannedEpisode]
    attempts: int


def generate(settings: DemoSettings) -> dict[str, Any]:
    """Writes the dataset and returns the content of its `meta/demo.json`.

    Episodes of several tasks alternate. The same settings write the same dataset, whatever the
    number of workers.

    Raises:
        UsageError: `out` is not a new or empty directory.
        DataError: a script fails too often at this speed and noise, or a worker was killed.
    """
    check_new(settings.out)
    for name in settings.tasks:  # reports a missing dependency once, not in every worker
        SCRIPTS[name].simulator(cameras=()).close()
    spec = settings.spec
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    features = robot_features(spec, settings.height, settings.width)
    writer = WriterV21(settings.out, fps=spec.control_hz, robot_type=spec.name, features=features)
    workers = min(settings.workers, settings.episodes * len(settings.tasks))
    with writer, worker_processes(workers) as pool, new_progress() as progress:
        plans = [plan_episodes(settings, name, writer, pool, progress) for name in settings.tasks]
        planned = [
            episode for turn in zip(*(p.episodes for p in plans), strict=True) for episode in turn
        ]
        recorded = pool.map(_record, [(settings, episode) for episode in planned])
        for episode in progress.track(recorded, len(planned), description="recording episodes"):
            writer.add(episode)
        facts = _facts(settings, plans)
        write_json(writer.folder / "meta" / "demo.json", facts)
    return facts


def plan_episodes(
    settings: DemoSettings, task: str, writer: WriterV21, pool: Executor, progress: Progress
) -> TaskPlan:
    """Finds the task's first `episodes` seeds that succeed."""
    planned: list[PlannedEpisode] = []
    attempts = 0
    bar = progress.add_task(f"looking for seeds: {task}", total=settings.episodes)
    for seed, result in _attempts(settings, task, pool):
        attempts += 1
        if result.is_success:
            progress.advance(bar)
            folder = writer.staging(f"{task}_{seed}")
            planned.append(PlannedEpisode(task=task, seed=seed, folder=folder))
        elif attempts >= MIN_ATTEMPTS and len(planned) < (1 - MAX_FAILURE_SHARE) * attempts:
            noise = settings.noise_of(SCRIPTS[task])
            raise DataError(
                f"demo aloha-sim: only {len(planned)} of {attempts} scripted episodes of {task} "
                f"succeed at --speed {settings.speed:g} --noise {noise:g}. Lower these values"
            )
        if len(planned) == settings.episodes:
            break
    return TaskPlan(task=task, episodes=planned, attempts=attempts)


def _attempts(
    settings: DemoSettings, task: str, pool: Executor
) -> Iterator[tuple[int, ScriptResult]]:
    """Plays the script on one seed after another, in endless batches."""
    first, batch = settings.seed, max(settings.workers, settings.episodes)
    while True:
        jobs = [(settings, task, seed) for seed in range(first, first + batch)]
        yield from zip(range(first, first + batch), pool.map(_attempt, jobs), strict=True)
        first, batch = first + batch, settings.workers


def _facts(settings: DemoSettings, plans: list[TaskPlan]) -> dict[str, Any]:
    by_task = {
        plan.task: {
            "attempts": plan.attempts,
            "successes": len(plan.episodes),
            "seeds": [episode.seed for episode in plan.episodes],
            "noise": settings.noise_of(SCRIPTS[plan.task]),
        }
        for plan in plans
    }
    return {
        "attempts": sum(plan.attempts for plan in plans),
        "successes": sum(len(plan.episodes) for plan in plans),
        "tasks": by_task,
        "speed": settings.speed,
        "flux": __version__,
    }


def new_progress() -> Progress:
    """Returns progress bars on stderr."""
    return Progress(console=Console(stderr=True))


@contextmanager
def worker_processes(number: int) -> Iterator[Executor]:
    """Yields processes that play episodes. At the end each finishes the one it plays.

    Raises:
        DataError: one of them was killed.
    """
    pool = ProcessPoolExecutor(
        number, multiprocessing.get_context("spawn"), initializer=_ignore_interrupt
    )
    try:
        # Each exists before there is work: in Python 3.11 one that is started while another dies
        # would be waited for without end.
        wait([pool.submit(os.getpid) for _ in range(number)])
        yield pool
    except BrokenProcessPool as error:
        raise DataError(
            "demo: a process that plays episodes was killed, as happens when memory runs out. "
            "Lower --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _ignore_interrupt() -> None:
    """Ignores Ctrl-C, because the parent stops its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


_sims: dict[tuple[str, int, int, tuple[str, ...]], AlohaArms] = {}
"""The simulators of this worker process, by task, image size and cameras."""


def _worker_sim(settings: DemoSettings, script: AlohaScript) -> AlohaArms:
    height, width, cameras = settings.height, settings.width, settings.cameras
    key = (script.name, height, width, cameras)
    if key not in _sims:
        _sims[key] = script.simulator(height=height, width=width, cameras=cameras)
    return _sims[key]


def _attempt(job: tuple[DemoSettings, str, int]) -> ScriptResult:
    """Plays one seed without images."""
    settings, task, seed = job
    script = SCRIPTS[task]
    noise = settings.noise_of(script)
    return script.run(_worker_sim(settings, script), seed, settings.speed, noise)


def _record(job: tuple[DemoSettings, PlannedEpisode]) -> Episode:
    """Renders one episode."""
    settings, episode = job
    script, spec = SCRIPTS[episode.task], settings.spec
    sim, noise = _worker_sim(settings, script), settings.noise_of(script)
    features = robot_features(spec, settings.height, settings.width)
    with EpisodeRecorder(episode.folder, spec.control_hz, features) as recorder:
        for action in script.execute(sim, episode.seed, settings.speed, noise):
            images = {video_key(camera): image for camera, image in sim.render().items()}
            recorder.add({"observation.state": sim.state(), "action": action, **images})
        if not script.is_done(sim):
            raise DataError(
                f"{episode.task}, seed {episode.seed}: expected the success that it had without "
                "rendering, got a failure. The simulation is not deterministic here"
            )
        return recorder.close(script.words, seed=episode.seed)
