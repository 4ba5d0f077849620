"""What a transform is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

Sample = dict[str, Any]


class Transform(Protocol):
    """Turns one sample into the next; does not write into its input."""

    def __call__(self, sample: Sample) -> Sample: ...


def apply(transforms: Iterable[Transform], sample: Sample) -> Sample:
    """Runs `transforms` in order."""
    for transform in transforms:
        sample = transform(sample)
    return sample
