"""The options of `flux-eval`."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from flux_core.errors import MissingDependencyError, UsageError

from ..chunking import Mode
from ..engines.names import AUTO
from ..engines.opening import DEFAULT_THREADS
from ..report import require_report_dependencies

DEFAULT_EPISODES = 50
"""Episodes per task, as in the published LIBERO and ALOHA protocols."""


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """The checked command line; see `flux-eval --help`. None stands for the suite's own value,
    or the policy's."""

    suite: str
    bundle: Path
    episodes: int = DEFAULT_EPISODES
    seed: int | None = None
    tasks: tuple[str, ...] = ()
    max_steps: int | None = None
    mode: Mode | None = None
    inference_delay: int | None = None
    execution_horizon: int | None = None
    workers: int = 1
    engine: str = AUTO
    threads: int = DEFAULT_THREADS
    video: Path | None = None
    report: Path | None = None
    accept_versions: Collection[str] = ()


def check_outputs(options: EvaluationOptions) -> None:
    """Checks before the first episode, rather than after the last, that outputs can be written."""
    if options.report is not None:
        require_report_dependencies(options.report)
    if options.video is None:
        return
    if importlib.util.find_spec("av") is None:
        raise MissingDependencyError(
            "--video: av is not installed. Install it with: pip install 'flux-runtime[report]', or "
            "leave --video out."
        )
    try:
        options.video.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--video {options.video}: cannot be created ({error.strerror}). Name another "
            f"directory."
        ) from error
