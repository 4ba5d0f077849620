"""Samples to batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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
            batch[key] = np.stack([np.asarray(sample[key]) for sample in samples])
        if all("group" in sample for sample in samples):
            batch["group"] = np.asarray([sample["group"] for sample in samples], dtype=np.int64)
        for key in self.meta_keys:
            batch[key] = [sample.get(key) for sample in samples]
        return batch
