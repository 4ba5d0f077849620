"""Names `flux-data repair` in errors about a dataset that it may save."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flux_core.errors import DataError


class SoundDataError(DataError):
    """An error about data that is not damaged; its message says what to do."""


NOT_REPAIRABLE = ("meta/info.json",)
"""Files of which repair only corrects totals: nothing else says what they say."""

OTHER_REMEDIES = ("flux-data ", "--reencode", "git lfs pull")
"""An error with one of these already says what to do."""


@contextmanager
def naming_repair(*roots: Path) -> Iterator[None]:
    """Adds the command to an error about a file below one of these datasets."""
    try:
        yield
    except SoundDataError:
        raise
    except DataError as error:
        text = str(error)
        for root in roots:
            if not (root / "meta").is_dir():  # not a dataset, but files of other programs
                continue
            below = text.removeprefix(f"{root}/")
            if below == text or below.startswith(NOT_REPAIRABLE):
                continue
            if not any(remedy in text for remedy in OTHER_REMEDIES):
                raise DataError(f"{text}. {hint(root)}") from error
        raise


def hint(root: Path) -> str:
    """Returns the sentence that names the command for a dataset."""
    return f"To save what can be saved: flux-data repair {root} --out DIR"
