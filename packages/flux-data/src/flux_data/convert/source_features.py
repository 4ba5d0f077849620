"""The features of a dataset that is to be copied: those of info.json, and what its files hold."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flux_core.errors import DataError

from ..lerobot.dataset import LeRobotDataset
from ..lerobot.stored_columns import number_type
from ..lerobot.writer import COUNTERS
from ..parquet.arrow import first_line, unreadable

NAMELESS = re.compile(r"__index_level_\d+__")
"""An index of pandas: it numbers the rows of a file and says nothing about them."""


class SourceFeatures:
    """What the data files of a dataset hold.

    Attributes:
        features: those of info.json, and columns that it does not list.
        types: the type of each column whose dtype is none of LeRobot's, over all files: a file
            without any entry may not know the type of its lists.
        schema: how `datasets` describes such columns.
    """

    def __init__(self, source: LeRobotDataset, positions: Sequence[int]) -> None:
        """Reads the schemas of the files of some episodes.

        Raises:
            DataError: a file cannot be read, or a column cannot be copied.
        """
        self._source = source
        listed = source.info["features"]
        for key, feature in listed.items():
            if feature["dtype"] == "audio":
                raise DataError(
                    f"{source.root / 'meta/info.json'}: features.{key}: audio is not supported. "
                    "Remove the feature from info.json; its files stay where they are"
                )
        schemas = self._schemas(positions)
        self.features: dict[str, Any] = {**listed, **self._unlisted(schemas)}
        special = [key for key, feature in listed.items() if _is_special(feature)]
        types = [{k: s.field(k).type for k in special if k in s.names} for s in schemas.values()]
        self.types = common_types(types)
        self.schema = _described(schemas, special)

    def _schemas(self, positions: Sequence[int]) -> dict[Path, pa.Schema]:
        paths = dict.fromkeys(
            span.path for position in positions for span in self._source.rows(position)
        )
        found: dict[Path, pa.Schema] = {}
        for path in paths:
            try:
                found[path] = pq.read_schema(path)
            except (OSError, pa.ArrowException) as error:
                raise unreadable(path, error) from error
        return found

    def _unlisted(self, schemas: Mapping[Path, pa.Schema]) -> dict[str, Any]:
        """Returns the features of columns that info.json does not list."""
        known = {*self._source.info["features"], *COUNTERS, "timestamp"}
        found: dict[str, Any] = {}
        for path, schema in schemas.items():
            for name in schema.names:
                if name in known or name in found or NAMELESS.fullmatch(name):
                    continue
                found[name] = _feature(path, name, schema.field(name).type)
        for path, schema in schemas.items():
            for name in (name for name in found if name not in schema.names):
                other = next(p for p, s in schemas.items() if name in s.names)
                raise DataError(
                    f"{other}: {name}: info.json does not list this column, and {path} lacks it. "
                    "Remove it, or list it and add it to all files"
                )
        return found


def common_types(parts: Sequence[Mapping[str, pa.DataType]]) -> dict[str, pa.DataType]:
    """Returns a type for each column that holds the values of all parts.

    Raises:
        DataError: there is none.
    """
    found: dict[str, pa.DataType] = {}
    for key in dict.fromkeys(key for part in parts for key in part):
        schemas = [pa.schema([(key, part[key])]) for part in parts if key in part]
        try:
            found[key] = pa.unify_schemas(schemas, promote_options="permissive").field(key).type
        except pa.ArrowException as error:
            raise DataError(
                f"{key}: expected one type in all data files ({first_line(error)})"
            ) from error
    return found


def _is_special(feature: Mapping[str, Any]) -> bool:
    """Whether a feature is neither of numbers, text nor pictures, such as LeRobot's `language`."""
    known = feature["dtype"] in ("video", "image", "string")
    return not known and number_type(feature["dtype"]) is None


def _described(schemas: Mapping[Path, pa.Schema], keys: Sequence[str]) -> dict[str, Any]:
    """Returns what the files' own metadata for `datasets` says of columns."""
    for schema in schemas.values():
        text = (schema.metadata or {}).get(b"huggingface", b"{}")
        try:
            features = json.loads(text)["info"]["features"]
        except (ValueError, KeyError, TypeError):
            continue
        return {key: features[key] for key in keys if key in features}
    return {}


def _feature(path: Path, name: str, kind: pa.DataType) -> dict[str, Any]:
    """Describes a column by its type, as info.json would."""
    size = 1
    if pa.types.is_fixed_size_list(kind):
        kind, size = kind.value_type, kind.list_size
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind, size = kind.value_type, _width(path, name)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        dtype = "string" if size == 1 else None
    else:
        is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        is_number = is_number or pa.types.is_boolean(kind)
        dtype = np.dtype(kind.to_pandas_dtype()).name if is_number else None
    if dtype is None or not size:
        raise DataError(
            f"{path}: {name}: info.json does not list this column, and its type {kind} has no "
            "dtype there. Remove the column"
        )
    return {"dtype": dtype, "shape": [size], "names": None}


def _width(path: Path, name: str) -> int:
    """Returns the length of the lists in a column; rows that differ are refused when written."""
    values = pq.read_table(path, columns=[name]).column(name)
    first = values[0].as_py() if len(values) else None
    return len(first) if first is not None else 0
