"""HTML pages of runs: one file that needs nothing else."""

from __future__ import annotations

import importlib.util
from contextlib import suppress
from pathlib import Path

from flux_core.errors import DataError, MissingDependencyError, UsageError

from .page import ReportData, render_report
from .video import VideoRecorder

__all__ = [
    "ReportData",
    "VideoRecorder",
    "require_report_dependencies",
    "write_report",
    "write_text",
]


def require_report_dependencies(path: Path) -> None:
    """Raises an error if a report cannot be written, before the run instead of after it."""
    missing = [name for name in ("matplotlib", "av") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"--report: {' and '.join(missing)} not installed. Install them with "
            f"'pip install flux-runtime[report]', or omit --report."
        )
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise UsageError(f"--report {path}: expected a file in a directory that exists.")


def write_report(path: Path, data: ReportData) -> None:
    """Writes the page of a run; see `write_text`."""
    write_text(path, render_report(data))


def write_text(path: Path, page: str) -> None:
    """Writes a page as UTF-8; a partly written page is never left, whatever ends the writing.

    Raises:
        DataError: it cannot be written, for example because the disk is full.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(page, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror or error}). Make room on the disk, or "
            f"name another --report."
        ) from error
    finally:
        with suppress(OSError):  # a failure to write it was already reported above
            partial.unlink(missing_ok=True)
