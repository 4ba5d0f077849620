"""Closed-loop evaluation in simulation, through the robot's own code path.

    suites ──tasks──> workers ──jobs──> evaluator ──session──> run_episode
                         |
                         └──played──> score ──> console, page

An episode is one `flux_runtime.control.session.drive`, as in `flux-runtime run`: the same engine,
scheduler and safety filter. Videos are made afterwards, by playing the commands sent once more.
"""

from __future__ import annotations

from .evaluation import evaluate
from .options import DEFAULT_EPISODES, EvaluationOptions

__all__ = ["DEFAULT_EPISODES", "EvaluationOptions", "evaluate"]
