"""Closed-loop evaluation in simulation, with the same code that drives a robot.

    suites ──tasks──> workers ──jobs──> evaluator ──session──> run_episode
                         |
                         └──played──> score ──> console, page

An episode is one call of `flux_runtime.control.session.drive`, as in `flux-runtime run`, with the
same engine, scheduler and safety filter. Videos are made afterwards, by sending the same commands
once more.
"""

from __future__ import annotations

from .evaluation import evaluate
from .options import DEFAULT_EPISODES, EvaluationOptions

__all__ = ["DEFAULT_EPISODES", "EvaluationOptions", "evaluate"]
