"""Collates samples into batches."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError

logger = logging.getLogger("flux.config")

COLUMN = "observation."
"""A dataset's columns begin with this. Training reads none of them under its own name."""
ALWAYS = ("group", "embodiment_ids")
"""The keys of samples that are stacked, if all have them, whatever the config lists."""


@dataclass(frozen=True, kw_only=True)
class DictCollator:
    """Stacks `keys` into arrays with a leading batch axis; `meta_keys` become lists.

    A column that no sample has is left out, with one warning: FluxVLA's configs list columns that
    only some of its datasets have.

    Each sample's `group` number, with which the trainer tells robots apart, is always included, and
    so is its embodiment.
    """

    keys: tuple[str, ...]
    meta_keys: tuple[str, ...] = ()

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = {}
        for key in self.keys:
            missing = [i for i, sample in enumerate(samples) if key not in sample]
            if len(missing) == len(samples) and key.startswith(COLUMN):
                _warn_of_unused(key)
                continue
            if missing:
                raise DataError(
                    f"collator.keys: expected {key!r} in every sample, got "
                    f"{', '.join(sorted(samples[missing[0]]))} in sample {missing[0]} of the batch"
                )
            batch[key] = _stacked(key, [np.asarray(sample[key]) for sample in samples])
        for key in ALWAYS:
            if all(key in sample for sample in samples):
                batch[key] = np.asarray([sample[key] for sample in samples], dtype=np.int64)
        for key in self.meta_keys:
            batch[key] = [sample.get(key) for sample in samples]
        return batch


@cache
def _warn_of_unused(key: str) -> None:
    logger.warning(
        "runner.collator.keys: ignored %r: no sample has this column, and no network reads it",
        key,
    )


def _stacked(key: str, values: Sequence[NDArray[Any]]) -> NDArray[Any]:
    shape = values[0].shape
    for number, value in enumerate(values):
        if value.shape != shape:
            raise DataError(
                f"collator.keys: {key!r}: expected one shape, got {shape} in sample 0 of the batch "
                f"and {value.shape} in sample {number}. Pad or resize them to one shape"
            )
    return np.stack(values)
