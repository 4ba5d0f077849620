"""Training samples: windows of actions, frames, mixtures, batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_core.lazy import lazy_exports

if TYPE_CHECKING:
    from .collate import DictCollator as DictCollator
    from .frame_source import FrameSource as FrameSource
    from .mixture import DistributedRepeatingDataset as DistributedRepeatingDataset
    from .mixture import EpochBatches as EpochBatches
    from .pack import pack_dataset as pack_dataset
    from .process_inputs import ProcessParquetInputs as ProcessParquetInputs
    from .ranges import SENSIBLE as SENSIBLE
    from .ranges import DimensionRange as DimensionRange
    from .ranges import measured_ranges as measured_ranges
    from .ranges import percent as percent
    from .ranges import rounded_up as rounded_up
    from .ranges import training_ranges as training_ranges
    from .raw_sample import RawSample as RawSample
    from .read_ahead import batches_ahead as batches_ahead
    from .read_ahead import make_samples as make_samples
    from .windows import DatasetPart as DatasetPart
    from .windows import ParquetDataset as ParquetDataset

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "collate": ("DictCollator",),
        "mixture": ("DistributedRepeatingDataset", "EpochBatches"),
        "frame_source": ("FrameSource",),
        "pack": ("pack_dataset",),
        "process_inputs": ("ProcessParquetInputs",),
        "ranges": (
            "SENSIBLE",
            "DimensionRange",
            "measured_ranges",
            "percent",
            "rounded_up",
            "training_ranges",
        ),
        "raw_sample": ("RawSample",),
        "read_ahead": ("batches_ahead", "make_samples"),
        "windows": ("DatasetPart", "ParquetDataset"),
    },
)
