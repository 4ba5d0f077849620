"""Values that the declared dtype cannot hold are refused by place; others are stored unchanged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flux_core.errors import DataError
from flux_data.convert.lerobot import convert
from flux_data.lerobot.dataset import open_lerobot
from flux_data.lerobot.recorder import EpisodeRecorder, vector_feature
from flux_data.lerobot.stored_columns import stored
from flux_data.parquet.arrow import to_array
from flux_data.validate.rows import validate

from ..coded_dataset import plain
from ..small_dataset import edit_column, edit_info

BIG = 1_700_000_000_000_000_000


def chunked(values: list[Any], kind: str) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, pa.type_for_alias(kind))])


def vectors(values: list[Any], kind: str) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, pa.list_(pa.type_for_alias(kind)))])


TOO_WIDE: dict[str, tuple[pa.ChunkedArray, str, str]] = {
    "a fraction in int64": (chunked([0.0, 0.46], "float64"), "int64", "frame 1: .* got 0.46, .* 0"),
    "nan in int64": (chunked([0.0, np.nan], "float64"), "int64", "frame 1: .* got nan"),
    "infinity in int32": (chunked([np.inf], "float64"), "int32", "frame 0: .* got inf"),
    "a clock in int32": (chunked([0, BIG], "int64"), "int32", f"frame 1: .* got {BIG}, which"),
    "a clock in float32": (chunked([BIG, BIG + 1], "int64"), "float32", f"frame 0: .* got {BIG}"),
    "a clock in float64": (chunked([2**53 + 1], "int64"), "float64", "frame 0: .* got 90071992547"),
    "a float clock in float32": (chunked([1.7e9, 1.7e9 + 0.1], "float64"), "float32", "frame 1"),
    "seconds since start in float16": (chunked([1.0, 2049.0], "float32"), "float16", "frame 1"),
    "large in float32": (
        chunked([1.0, 1e300], "float64"),
        "float32",
        "frame 1: .* got 1e.300",
    ),
    "unsigned in int64": (
        chunked([2**63], "uint64"),
        "int64",
        "frame 0: .* 9223372036854775808",
    ),
    "negative in uint8": (
        chunked([1, -1], "int64"),
        "uint8",
        "frame 1: .* got -1, .* 255",
    ),
    "256 in uint8": (chunked([255, 256], "int16"), "uint8", "frame 1: .* got 256"),
    "2 in bool": (chunked([0, 1, 2], "int64"), "bool", "frame 2: .* got 2, .* True"),
    "0.5 in bool": (chunked([0.0, 0.5], "float32"), "bool", "frame 1: .* got 0.5"),
    "no value in bool": (chunked([True, None], "bool"), "bool", "frame 1: .* got no value"),
    "no value in int64": (chunked([1, None], "int64"), "int64", "frame 1: .* got no value"),
    "text in float32": (
        chunked(["0.5"], "string"),
        "float32",
        "frame 0: .* float32, got '0.5'",
    ),
    "numbers in string": (chunked([5], "int64"), "string", "frame 0: expected string, got 5"),
    "one of a vector": (
        vectors([[1.0, 2.0], [3.0, 4.5]], "float64"),
        "int16",
        r"frame 1: .* got \[3.0, 4.5\], which would become \[3, 4\]",
    ),
}


@pytest.mark.parametrize("name", TOO_WIDE)
def test_a_value_that_would_change_is_refused_with_its_place(name: str) -> None:
    column, dtype, message = TOO_WIDE[name]
    shape = [2] if pa.types.is_list(column.type) else [1]
    with pytest.raises(DataError, match=f"file: episode 3, key: {message}"):
        stored(column, {"dtype": dtype, "shape": shape}, "file: episode 3, key")


FITTING: dict[str, tuple[pa.ChunkedArray, str, Callable[[Any], Any]]] = {
    "whole numbers in a float": (chunked([1.0, -7.0], "float64"), "int8", lambda v: v),
    "truth as numbers": (chunked([0, 1], "int64"), "bool", lambda v: v.astype(bool)),
    "numbers as truth": (chunked([True, False], "bool"), "int64", lambda v: v.astype(int)),
    "small whole numbers": (chunked([2**24, -5], "int64"), "float32", lambda v: v),
    "rounded floats": (chunked([0.1, 0.2, 1e-30], "float64"), "float32", np.float32),
    "noise of rounding": (chunked([1.5, 1.5 + 1e-12], "float64"), "float32", np.float32),
    "a wider integer": (chunked([-1, 5], "int8"), "int64", lambda v: v),
    "a wider float": (chunked([0.25], "float16"), "float64", lambda v: v),
    "unsigned": (chunked([2**64 - 1], "uint64"), "uint64", lambda v: v),
}


@pytest.mark.parametrize("name", FITTING)
def test_values_that_fit_are_converted(name: str) -> None:
    column, dtype, expected = FITTING[name]
    found = stored(column, {"dtype": dtype, "shape": [1]}, "key")
    values = to_array(pa.chunked_array([found]), "key")
    assert values.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(values, expected(to_array(column, "key")))


def test_texts_are_kept_whatever_their_type() -> None:
    texts = pa.array(["a", "bb", "a"])
    for column in (texts, texts.cast(pa.large_string()), texts.dictionary_encode()):
        found = stored(pa.chunked_array([column]), {"dtype": "string", "shape": [1]}, "note")
        assert found.to_pylist() == ["a", "bb", "a"]


def test_a_time_that_float32_moves_is_refused(tmp_path: Path) -> None:
    """At 1 kHz and 20,000 s, float32 is off by a whole frame although the times still ascend."""
    times = chunked([20_000.0005, 20_000.0025], "float64")
    feature = {"dtype": "float32", "shape": [1]}
    with pytest.raises(DataError, match=r"timestamp: frame 0: .* got 20000.0005"):
        stored(times, feature, "timestamp", fps=1000)
    stored(times, feature, "timestamp", fps=10)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_dataset_with_wide_values_is_refused_until_info_declares_them(
    tmp_path: Path, version: str
) -> None:
    root = plain("v2.1").write(tmp_path / "in")
    name = "data/chunk-000/episode_000001.parquet"
    wide = [[x + 1 / 3 for x in row] for row in [[1.0] * 4] * 3]
    edit_column(name, "action", lambda _: wide, pa.list_(pa.float64()))(root)
    features = dict(open_lerobot(root).info["features"])
    narrow = {"dtype": "int64", "shape": [4], "names": None}
    edit_info(features={**features, "action": narrow})(root)
    message = r"episode_00000\d.parquet: episode 0, action: frame 0: .*int64 .* got \[0.5, 0.5"
    with pytest.raises(DataError, match=message):
        convert([root], tmp_path / "out", version)
    assert not (tmp_path / "out").exists()
    edit_info(features={**features, "action": {**narrow, "dtype": "float64"}})(root)
    convert([root], tmp_path / "out", version)
    actions = open_lerobot(tmp_path / "out").episode(1, ["action"])["action"]
    np.testing.assert_array_equal(actions, wide)
    assert not [fault for fault in validate(tmp_path / "out") if fault.kind != "stats_value"]


def test_the_recorder_refuses_values_that_float32_merges(tmp_path: Path) -> None:
    features = {"action": vector_feature(("clock",))}
    with EpisodeRecorder(tmp_path, 10, features) as recorder:
        for frame in range(3):
            recorder.add({"action": np.array([1.7e9 + frame / 10])})
        with pytest.raises(DataError, match=r"action: frame 1: .* got \[1700000000.1\], which"):
            recorder.close("wait")
