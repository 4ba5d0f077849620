"""Runs an evaluation, from its options to its report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from flux_core.bundle import Bundle
from flux_core.robots import robot_spec

from ..control.preflight import check_bundle_fits
from .evaluator import EpisodeJob, Played
from .options import EvaluationOptions, check_outputs
from .page import PageData, write_page
from .score import score
from .suites import SuiteTask, find_suite, select_tasks
from .workers import Workers

MAX_VIDEOS_OF_A_KIND = 3
"""The report shows at most this many failures and this many successes."""


def evaluate(
    options: EvaluationOptions, on_episode: Callable[[Played], None] = lambda played: None
) -> dict[str, object]:
    """Plays all episodes and writes the requested report and videos.

    Args:
        options: the options of the command line.
        on_episode: called after each episode, in the order in which the episodes end.

    Returns:
        The JSON report of `flux-eval`.

    Raises:
        FluxError: the suite, the bundle or the simulator cannot be used.
    """
    suite = find_suite(options.suite)
    check_outputs(options)
    bundle = Bundle.open(options.bundle, accept_versions=options.accept_versions)
    check_bundle_fits(bundle.manifest, robot_spec(suite.robot))
    tasks = select_tasks(suite, options.tasks)
    first = suite.first_seed if options.seed is None else options.seed
    seeds = range(first, first + options.episodes)
    jobs = [EpisodeJob(task=task, seed=seed) for task in range(len(tasks)) for seed in seeds]
    with Workers(options) as workers:
        played: dict[EpisodeJob, Played] = {}
        files: dict[EpisodeJob, Path] = {}
        for episode in workers.play(jobs):
            if options.video is not None and episode.video:
                files[episode.job] = _write_video(options.video, tasks, episode)
            played[episode.job] = episode
            on_episode(episode)
        ordered = [played[job] for job in jobs]
        report = score(suite, tasks, ordered)
        if options.video is not None:
            report["videos"] = [str(files[job]) for job in jobs if job in files]
        if options.report is not None:
            report["report"] = str(options.report)
            shown = pick_shown(ordered)
            missing = [episode for episode in shown if not episode.video]
            videos = {episode.job: episode.video for episode in shown}
            filmed = zip(missing, workers.film(missing), strict=True)
            videos |= {episode.job: video for episode, video in filmed}
            data = PageData(
                report=report,
                played=ordered,
                videos=videos,
                robot=robot_spec(suite.robot).name,
                manifest=bundle.manifest,
            )
            write_page(options.report, data)
    return report


def pick_shown(played: Sequence[Played], count: int = MAX_VIDEOS_OF_A_KIND) -> list[Played]:
    """Returns up to `count` failures and then up to `count` successes.

    Takes one episode from every task before it takes a second one from any task.
    """
    failures = [episode for episode in played if not episode.result.success]
    successes = [episode for episode in played if episode.result.success]
    return [*_spread(failures)[:count], *_spread(successes)[:count]]


def _spread(played: Sequence[Played]) -> list[Played]:
    seen: dict[int, int] = {}
    rounds: list[tuple[int, Played]] = []
    for episode in played:
        seen[episode.job.task] = seen.get(episode.job.task, 0) + 1
        rounds.append((seen[episode.job.task], episode))
    return [episode for _, episode in sorted(rounds, key=lambda pair: pair[0])]


def _write_video(directory: Path, tasks: Sequence[SuiteTask], played: Played) -> Path:
    outcome = "success" if played.result.success else "failure"
    path = directory / f"{tasks[played.job.task].name}_seed_{played.job.seed}_{outcome}.mp4"
    path.write_bytes(played.video or b"")
    return path
