"""The first training transform: renames a dataset's columns to what the model expects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from flux_core.config import check_at_least
from flux_core.errors import ConfigError, DataError
from flux_core.robots import embodiment_number
from flux_core.transforms import DatasetInputs, Rule, Sample, rules

KEPT = ("stats", "task_description", "action_masks", "rng")
"""The keys that later transforms may need, whatever the config lists."""


@dataclass(frozen=True, kw_only=True)
class ProcessParquetInputs(DatasetInputs):
    """Copies `parquet_keys` (renamed by `name_mappings`) and stacks the cameras' frames.

    The sample's `images`, a list of one frame per video key, become (C, height, width, 3) uint8 in
    that order. `image_masks` is True for each; `num_padding_imgs` adds black images with mask
    False. With `embodiment_id` the sample also has `embodiment_ids`.
    """

    rules: ClassVar[Mapping[str, Rule]] = {
        **rules("free", "columns for the loss and the log; cameras are compared", "parquet_keys"),
        **rules("checked", "the column called 'states' has statistics", "name_mappings"),
        **rules("equal", "inference.dataset.img_keys, by position and name", "video_keys"),
        **rules("free", "padded cameras are masked", "num_padding_imgs"),
        **rules("free", "chooses the weights that a bundle has", "embodiment_id"),
    }
    parquet_keys: tuple[str, ...]
    video_keys: tuple[str, ...]
    name_mappings: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {"observation.state": ("states",)}
    )
    num_padding_imgs: int = 0
    embodiment_id: int | str | None = None

    def __post_init__(self) -> None:
        check_at_least(0, self, "num_padding_imgs")
        if self.embodiment_id is not None:
            embodiment_number(self.embodiment_id)
        columns: dict[str, str] = {}
        for key in dict.fromkeys(self.parquet_keys):
            for name in self._names(key):
                if columns.setdefault(name, key) != key:
                    raise ConfigError(
                        f"name_mappings: expected one column called {name!r}, "
                        f"got {columns[name]!r} and {key!r}. Let state_key or action_key of the "
                        "ParquetDataset join them"
                    )

    def _names(self, key: str) -> tuple[str, ...]:
        return self.name_mappings.get(key, (key,))

    def column_of(self, name: str) -> str | None:
        """Returns the column that is renamed to `name`, or None."""
        columns = (key for key in self.parquet_keys if name in self._names(key))
        return next((key for key in columns if key != name), None)

    def __call__(self, sample: Sample) -> Sample:
        out: Sample = {key: sample[key] for key in KEPT if key in sample}
        for key in self.parquet_keys:
            if key not in sample:
                raise DataError(
                    f"ProcessParquetInputs.parquet_keys: expected {key!r} in the sample, got "
                    f"{', '.join(sample)}"
                )
            for name in self._names(key):
                out[name] = sample[key]
        frames = sample["images"]
        if not frames:
            raise ConfigError("ProcessParquetInputs.video_keys: expected at least one, got none")
        if len({frame.shape for frame in frames}) > 1:
            sizes = [
                f"{key} {frame.shape[0]}x{frame.shape[1]}"
                for key, frame in zip(self.video_keys, frames, strict=True)
            ]
            raise DataError(f"images: expected one size, got {', '.join(sizes)}. Resize them")
        padding = [np.zeros_like(frames[0])] * self.num_padding_imgs
        out["camera_names"] = self.video_keys
        out["images"] = np.stack([*frames, *padding])
        out["image_masks"] = np.arange(len(frames) + len(padding)) < len(frames)
        if self.embodiment is not None:
            out["embodiment_ids"] = np.int64(self.embodiment)
        return out


def dataset_inputs(columns: tuple[str, ...], cameras: tuple[str, ...]) -> DatasetInputs:
    """Returns the usual inputs: these columns, and one frame per camera."""
    return ProcessParquetInputs(parquet_keys=columns, video_keys=cameras)
