"""Checks whole files of a dataset: number of rows, types, and whether they belong to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from flux_core.errors import DataError

from ..lerobot.dataset import LeRobotDataset, LeRobotV3
from ..parquet.arrow import footer_of
from .fault import Fault

NUMBERS = {"bool", *(f"float{bits}" for bits in (16, 32, 64))}
NUMBERS |= {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
"""The dtypes of info.json that equal an arrow type; others are not checked."""


def file_faults(source: LeRobotDataset) -> Iterator[Fault]:
    """Yields the faults of data files, each opened once, and files that belong to no episode."""
    rows: Counter[Path] = Counter()
    for position in range(source.num_episodes):
        for span in source.data_spans(position):
            rows[span.path] += span.length
    for path, expected in rows.items():
        try:
            metadata = footer_of(path).metadata
        except DataError:  # reported with the episode
            continue
        schema = metadata.schema.to_arrow_schema()
        yield from _check_types(source, path, schema)
        # The rows of a single-episode file are counted with the episode.
        if isinstance(source, LeRobotV3) and metadata.num_rows != expected:
            message = f"expected {expected} rows (its episodes' lengths), got {metadata.num_rows}"
            yield Fault(kind="rows", file=str(path), where="", message=message)
    yield from _check_strangers(source.root / "data", "*.parquet", set(rows))
    yield from _check_strangers(source.root / "videos", "*.mp4", _videos(source))


def _videos(source: LeRobotDataset) -> set[Path]:
    positions = range(source.num_episodes)
    return {source.video(key, position).path for key in source.video_keys for position in positions}


def _check_strangers(folder: Path, pattern: str, known: set[Path]) -> Iterator[Fault]:
    for path in sorted(folder.rglob(pattern)):
        if path not in known:
            message = "belongs to no episode of the metadata"
            yield Fault(kind="unknown_file", file=str(path), where="", message=message)


def _check_types(source: LeRobotDataset, path: Path, schema: pa.Schema) -> Iterator[Fault]:
    """Yields columns whose number type differs from info.json; other types are found by value."""
    for key, feature in source.info["features"].items():
        if feature["dtype"] not in NUMBERS or key not in schema.names:
            continue
        found = _number_type(schema.field(key).type)
        if found not in (None, feature["dtype"]):
            message = f"{key}: expected {feature['dtype']} (info.json), got {found}"
            yield Fault(kind="dtype", file=str(path), where=key, message=message)


def _number_type(kind: pa.DataType) -> str | None:
    """Returns numpy's dtype name of a column of numbers, of lists or of lists of lists."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    while pa.types.is_nested(kind) and kind.num_fields == 1:
        kind = kind.field(0).type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return np.dtype(kind.to_pandas_dtype()).name if is_number else None
