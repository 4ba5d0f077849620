"""Frames of msgpack: the same bytes as openpi-client's, and every way in which one is refused."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import pytest

from flux_runtime.wire import METADATA_BOUNDS, Bounds, WireError, pack, unpack

from ...golden.make_openpi_messages import messages, read
from .conftest import head, nested

BOUNDS = Bounds()


def an_array(**changes: Any) -> dict[bytes, Any]:
    fields = {"__ndarray__": True, "data": bytes(24), "dtype": "<f4", "shape": [2, 3]}
    return {key.encode(): value for key, value in (fields | changes).items()}


def a_number(dtype: str, value: Any) -> dict[bytes, Any]:
    return {b"__npgeneric__": True, b"data": value, b"dtype": dtype}


def refused(frame: bytes, bounds: Bounds = BOUNDS) -> WireError:
    """The refusal of a frame, which is one short line."""
    with pytest.raises(WireError) as caught:
        unpack(frame, bounds)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    return caught.value


def kind_of_value(value: Any) -> str:
    return refused(msgpack.packb({"key": value})).kind


@pytest.mark.parametrize("name", messages())
def test_messages_are_packed_as_openpi_client_packs_them(name: str) -> None:
    golden = dict(zip(messages(), read(), strict=True))
    assert pack(messages()[name]) == golden[name]


@pytest.mark.parametrize("name", messages())
def test_messages_of_openpi_client_are_unpacked_bit_for_bit(name: str) -> None:
    golden = dict(zip(messages(), read(), strict=True))
    assert_same(unpack(golden[name], BOUNDS), messages()[name])


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()
        assert not found.flags.writeable
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            assert_same(ours, theirs)
    else:
        assert type(found) is (float if type(expected) is np.float64 else type(expected))
        assert found == expected


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()]),
        np.array(["text"]),
        np.array([b"text"]),
        np.zeros(1, "i4,f4"),
        np.array([1j]),
        np.array(["2026-01-01"], "datetime64[s]"),
        np.complex64(1j),
        {1, 2},
        object(),
        2**64,
        "\ud800",
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_that_no_receiver_takes_are_not_packed(value: Any) -> None:
    with pytest.raises(WireError, match="cannot be packed") as caught:
        pack({"key": value})
    assert caught.value.kind == "unsupported"


@pytest.mark.parametrize(
    "dtype",
    ["|O", "|V8", "<U4", "|S4", "<c8", "<M8[s]", "<m8[s]", ">f4", "O", "f4", "=f4", "i4,f4"],
)
def test_dtypes_that_are_not_plain_numbers_are_refused(dtype: str) -> None:
    assert kind_of_value(an_array(dtype=dtype)) == "bad_array"
    assert kind_of_value(a_number(dtype, 0)) == "bad_array"


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"shape": [2, 4]}, "bad_array"),
        ({"shape": [2, 2]}, "bad_array"),
        ({"shape": []}, "bad_array"),
        ({"shape": [-2, -3]}, "bad_array"),
        ({"shape": [-1, 6]}, "bad_array"),
        ({"shape": [True, 6]}, "bad_array"),
        ({"shape": [2.0, 3]}, "bad_array"),
        ({"shape": ["2", 3]}, "bad_array"),
        ({"shape": [None, 3]}, "bad_array"),
        ({"shape": [[2], 3]}, "bad_array"),
        ({"shape": 6}, "bad_array"),
        ({"shape": {"0": 6}}, "bad_array"),
        ({"shape": [1, 1, 1, 1, 6]}, "bad_array"),
        ({"shape": [2**62, 3]}, "bad_array"),
        ({"shape": [2**32, 2**32]}, "bad_array"),  # the product is 0 in 64 bits
        ({"shape": [2**20, 2**20]}, "oversized"),
        ({"shape": [0, 2**24, 2**24], "data": b""}, "oversized"),
        ({"data": bytes(23)}, "bad_array"),
        ({"data": ""}, "bad_array"),
        ({"data": [0] * 24}, "bad_array"),
        ({"data": None}, "bad_array"),
        ({"dtype": 4}, "bad_array"),
        ({"dtype": None}, "bad_array"),
        ({"dtype": ["<f4"]}, "bad_array"),
        ({"dtype": b"<f4"}, "bad_array"),
        ({"__ndarray__": False}, "bad_array"),
        ({"__ndarray__": 1}, "bad_array"),
        ({"more": 1}, "bad_array"),
        ({"dtype": "|b1", "data": b"\x00\x02", "shape": [2]}, "bad_array"),
    ],
    ids=repr,
)
def test_arrays_that_contradict_themselves_are_refused(changes: dict[str, Any], kind: str) -> None:
    assert kind_of_value(an_array(**changes)) == kind


@pytest.mark.parametrize("key", [b"data", b"dtype", b"shape"])
def test_arrays_without_one_of_their_keys_are_refused(key: bytes) -> None:
    array = an_array()
    del array[key]
    assert kind_of_value(array) == "bad_array"


@pytest.mark.parametrize(
    "number",
    [
        a_number("|u1", 256),
        a_number("|u1", -1),
        a_number("|u1", 1.0),
        a_number("|u1", True),
        a_number("|b1", 1),
        a_number("<f4", "1"),
        a_number("<f4", None),
        a_number("<f4", True),
        a_number("<i8", 2**63),
        a_number("<f4", [1.0]),
        {**a_number("<f4", 1.0), "more": 1},
    ],
    ids=repr,
)
def test_numbers_that_their_dtype_cannot_hold_are_refused(number: dict[bytes, Any]) -> None:
    assert kind_of_value(number) == "bad_array"


def test_an_empty_array_may_have_any_small_size() -> None:
    found = unpack(msgpack.packb({"key": an_array(shape=[0, 2**20], data=b"")}), BOUNDS)
    assert found["key"].shape == (0, 2**20)


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (b"", "malformed"),
        (b"\xc1", "malformed"),
        (b"\x81\xa1k\xc1", "malformed"),  # never used by msgpack
        (b"\x90", "malformed"),
        (b"\xc0", "malformed"),
        (b"\xa1k", "malformed"),
        (b"GET / HTTP/1.1\r\n\r\n", "malformed"),
        (b"\x80\x80", "malformed"),
        (b"\x81\xa1k\x01\x00", "malformed"),
        (b"\x82\xa1k\x01\xa1k\x02", "malformed"),
        (b"\x82\xa1k\x01\xc4\x01k\x02", "malformed"),
        (b"\x81\x01\x01", "malformed"),
        (b"\x81\xc0\x01", "malformed"),
        (b"\x81\xc3\x01", "malformed"),
        (b"\x81\xcb" + bytes(8) + b"\x01", "malformed"),
        (b"\x81\x91\x01\x01", "malformed"),
        (b"\x81\x80\x01", "malformed"),
        (b"\x81\xc4\x01k\x01", "malformed"),
        (b"\x81\xa1\xff\x01", "malformed"),  # not UTF-8
        (b"\x81\xa1k\xa3\xed\xa0\x80", "malformed"),  # half a surrogate pair
        (b"\x81\xa1k\xd6\xff" + bytes(4), "malformed"),  # a timestamp
        (b"\x81\xa1k\xd7\xff" + bytes(8), "malformed"),
        (b"\x81\xa1k\xc7\x0c\xff" + bytes(12), "malformed"),
        (b"\x81\xa1k\xd4\x05\x00", "malformed"),  # an extension
        (b"\x81\xa1k\xc9\xff\xff\xff\xff\x05", "malformed"),
        (head(0xDF, 2**32 - 1), "too_many_items"),
        (b"\x81\xa1k" + head(0xDD, 2**32 - 1), "too_many_items"),
        (b"\x81\xa1k" + head(0xDD, 4096), "too_many_items"),
        (b"\x81\xa1k" + head(0xDD, 4095), "malformed"),  # truncated
        (b"\x81\xa1k" + head(0xC6, 2**32 - 1), "oversized"),
        (b"\x81\xa1k" + head(0xC6, 2**20), "malformed"),
        (b"\x81\xa1k" + head(0xDB, 2**32 - 1), "oversized"),
        (b"\x81\xa1k" + head(0xDB, 2**14), "malformed"),
        (b"\x81\xda\x02\x01" + b"k" * 513 + b"\x01", "oversized"),
        (nested(9), "too_deep"),
        (nested(9, "maps"), "too_deep"),
        (nested(2**20), "too_deep"),
        (nested(2**20, "maps"), "too_deep"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[:12].hex(),
)
def test_frames_that_are_not_a_message_are_refused(frame: bytes, kind: str) -> None:
    assert refused(frame).kind == kind


@pytest.mark.parametrize("kind", ["lists", "maps"])
def test_the_deepest_message_allowed_is_read(kind: str) -> None:
    assert unpack(nested(8, kind), BOUNDS)
    assert unpack(nested(64, kind), METADATA_BOUNDS)
    assert refused(nested(65, kind), METADATA_BOUNDS).kind == "too_deep"


def test_nesting_does_not_recurse() -> None:
    bounds = Bounds(max_items=2**21)
    assert refused(nested(2**20), bounds).kind == "too_deep"
    deep = Bounds(max_depth=sys.getrecursionlimit() * 10, max_items=2**21)
    assert refused(nested(sys.getrecursionlimit() * 5), deep).kind == "malformed"


@pytest.mark.parametrize("name", messages())
def test_every_truncated_frame_is_refused(name: str) -> None:
    frame = pack(messages()[name])
    for size in range(len(frame)):
        assert refused(frame[:size]).kind == "malformed"
    assert refused(frame + b"\x00").kind == "malformed"


def test_a_frame_above_the_limit_is_refused_unread() -> None:
    assert refused(bytes(101), Bounds(max_bytes=100)).kind == "oversized"


def test_an_array_above_the_limit_is_refused() -> None:
    frame = pack({"key": np.zeros(101, np.uint8)})
    assert refused(frame, Bounds(max_array_bytes=100)).kind == "oversized"


def test_metadata_holds_no_arrays() -> None:
    assert refused(pack({"key": np.zeros(2, np.uint8)}), METADATA_BOUNDS).kind == "bad_array"
    assert refused(pack({"key": np.float32(1)}), METADATA_BOUNDS).kind == "bad_array"


def test_bytearrays_and_views_are_read_as_bytes_are() -> None:
    frame = pack({"key": np.arange(3)})
    for kind in (bytearray, memoryview):
        assert unpack(kind(frame), BOUNDS)["key"].tolist() == [0, 1, 2]


def peak_of(frame: bytes, bounds: Bounds = BOUNDS) -> int:
    """The largest memory taken while a frame is read or refused."""
    unpack(b"\x80", bounds)  # imports
    tracemalloc.start()
    try:
        unpack(frame, bounds)
    except WireError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize(
    "frame",
    [
        pack({"image": np.zeros((1024, 1024, 3), np.uint8)}),
        pack({f"{i}": np.zeros(2**16, np.uint8) for i in range(64)}),
        pack({"jpeg": bytes(2**22)}),
    ],
    ids=["one", "many", "bytes"],
)
def test_arrays_take_the_memory_of_the_frame_once_more(frame: bytes) -> None:
    assert peak_of(frame) < len(frame) + 2**16


BYTES_PER_ITEM = 200


@pytest.mark.parametrize(
    "make",
    [
        lambda n: {"k": [{} for _ in range(n)]},
        lambda n: {"k": [[] for _ in range(n)]},
        lambda n: {"k": [{"": None} for _ in range(n // 2)]},
        lambda n: {"k": [{"": 0.5} for _ in range(n // 2)]},
        lambda n: {"k": [2**62 + i for i in range(n)]},
        lambda n: {"k": [chr(200 + i % 5000) * 2 for i in range(n)]},
        lambda n: {"k": [{f"{j}": j for j in range(6)} for _ in range(n // 7)]},
    ],
)
def test_small_values_take_some_hundred_bytes_each(make: Callable[[int], Any]) -> None:
    frame = pack(make(BOUNDS.max_items - 1))
    assert unpack(frame, BOUNDS)
    assert peak_of(frame) < len(frame) + BYTES_PER_ITEM * BOUNDS.max_items


@pytest.mark.parametrize(
    "frame",
    [
        head(0xDF, 2**32 - 1),
        b"\x81\xa1k" + head(0xDD, 2**32 - 1),
        b"\x81\xa1k" + head(0xC6, 2**32 - 1),
        b"\x81\xa1k" + head(0xDB, 2**32 - 1),
        msgpack.packb({"key": an_array(shape=[2**20, 2**20])}),
        msgpack.packb({"key": an_array(shape=[2**24], dtype="|u1")}),
        nested(2**20),
        b"\x81\xa1k" + head(0xDD, 2**20) + bytes(2**20),
    ],
    ids=lambda frame: frame[:12].hex(),
)
def test_claims_take_no_memory(frame: bytes) -> None:
    assert peak_of(frame) < 2**16
