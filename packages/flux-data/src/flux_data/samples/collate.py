"""Samples to batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError


@dataclass(frozen=True, kw_only=True)
class DictCollator:
    """Stacks `keys` into arrays with a leading batch axis and lists `meta_keys`.

    The number of each sample's `group` always comes along: the trainer tells robots apart by it.
    """

    keys: tuple[str, ...]
    meta_keys: tuple[str, ...] = ()

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = {}
        for key in self.keys:
            missing = [i for i, sample in enumerate(samples) if key not in sample]
            if missing:
                raise DataError(
                    f"collator.keys: sample {missing[0]} of the batch has no {key!r}; "
                    f"it has {', '.join(sorted(samples[missing[0]]))}"
                )
            batch[key] = _stacked(key, [np.asarray(sample[key]) for sample in samples])
        if all("group" in sample for sample in samples):
            batch["group"] = np.asarray([sample["group"] for sample in samples], dtype=np.int64)
        for key in self.meta_keys:
            batch[key] = [sample.get(key) for sample in samples]
        return batch


def _stacked(key: str, values: Sequence[NDArray[Any]]) -> NDArray[Any]:
    shape = values[0].shape
    for number, value in enumerate(values):
        if value.shape != shape:
            raise DataError(
                f"collator.keys: {key!r}: expected one shape, got {shape} in sample 0 of the batch "
                f"and {value.shape} in sample {number}. Pad or resize them alike"
            )
    return np.stack(values)
