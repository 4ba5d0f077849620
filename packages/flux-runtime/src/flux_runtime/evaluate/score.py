"""Summarizes the episodes of an evaluation as `flux-eval --json` prints them."""

from __future__ import annotations

from collections.abc import Sequence

from ..control.episode import EpisodeResult
from ..control.success import wilson_interval
from ..run.episode_totals import collect_histograms, summarize
from .evaluator import Played
from .suites import Suite, SuiteTask


def score(suite: Suite, tasks: Sequence[SuiteTask], played: Sequence[Played]) -> dict[str, object]:
    """Returns the report, in which every rate has its interval.

    Args:
        suite: the suite.
        tasks: the evaluated tasks; a job's task is an index into them.
        played: at least one episode, in the order of the report.
    """
    results = [episode.result for episode in played]
    summary = summarize(results, collect_histograms(results, {}))
    episodes: list[dict[str, object]] = [
        {"task": tasks[episode.job.task].name, **episode.result.summary()} for episode in played
    ]
    # With one tick to hold, an episode ends at its first success, which is also the strict one.
    if suite.hold_ticks == 1:
        for facts in (summary, *episodes):
            for name in ("strict_success_rate", "strict_ci95", "strict_success"):
                facts.pop(name, None)
    return {
        "suite": suite.name,
        **played[0].facts,
        **summary,
        "prompt": played[0].facts["prompt"] if len(tasks) == 1 else None,
        "num_episodes": len(played),
        "episodes": episodes,
        "stages": stage_rates(suite.stages, results),
        "seeds": sorted({episode.job.seed for episode in played}),
        "tasks": [
            _task(suite, task, [episode for episode in played if episode.job.task == index])
            for index, task in enumerate(tasks)
        ],
    }


def rate(outcomes: Sequence[bool]) -> dict[str, object]:
    """Returns `count`, `num_episodes`, `rate` and `ci95`, the 95% Wilson interval of the rate."""
    count, total = sum(outcomes), len(outcomes)
    interval = wilson_interval(count, total)
    return {"count": count, "num_episodes": total, "rate": count / total, "ci95": list(interval)}


def stage_rates(
    stages: Sequence[str], results: Sequence[EpisodeResult]
) -> dict[str, dict[str, object]]:
    """Returns the success rate of every stage."""
    return {stage: rate([result.stages[stage] for result in results]) for stage in stages}


def _task(suite: Suite, task: SuiteTask, played: Sequence[Played]) -> dict[str, object]:
    results = [episode.result for episode in played]
    success = rate([bool(result.success) for result in results])
    return {
        "task": task.name,
        "prompt": played[0].facts["prompt"],
        "num_episodes": len(results),
        "num_successes": success["count"],
        "success_rate": success["rate"],
        "ci95": success["ci95"],
        "stages": stage_rates(suite.stages, results),
    }
