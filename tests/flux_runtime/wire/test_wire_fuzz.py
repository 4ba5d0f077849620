"""Random damage: whatever the bytes, a message is read or refused with one line, in bounded memory.

FLUX_FUZZ_EXAMPLES sets how many examples each test tries; scripts/fuzz.sh wire runs for minutes.
"""

from __future__ import annotations

import io
import os
import random
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st
from PIL import Image

from flux_runtime.serve.conversation import read_head
from flux_runtime.wire import (
    METADATA_BOUNDS,
    Bounds,
    KeyMap,
    PolicyFacts,
    WireError,
    as_picture,
    observation_of,
    pack,
    unpack,
)
from flux_runtime.wire.bounds import DTYPES
from flux_runtime.wire.messages import (
    Answer,
    Hello,
    Infer,
    Ping,
    Pong,
    Refusal,
    client_message,
    server_message,
)

from ...golden.make_openpi_messages import messages
from .conftest import a_hello, a_picture, an_answer, an_infer, head

MOST_EXAMPLES = int(os.environ.get("FLUX_FUZZ_EXAMPLES", "40"))
FUZZ = settings(
    max_examples=MOST_EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FUZZ_METADATA = settings(FUZZ, max_examples=max(MOST_EXAMPLES // 4, 1))  # large, so slow
BOUNDS = Bounds()
SMALL = Bounds(
    max_bytes=4096, max_depth=5, max_items=64, max_text=64, max_key=8, max_array_bytes=256
)
MAX_SECONDS = 5.0
SPARE_BYTES = 2 * 2**20
"""For imports, tracebacks and what Python keeps."""
EXAMPLES: Counter[str] = Counter()
REFUSED: Counter[str] = Counter()

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.sampled_from([0, -1, 1, 3, 2**31, 2**32, 2**62, 2**63 - 1, 2**64 - 1, -(2**63)])
ODD = [float("nan"), float("inf"), -float("inf"), -0.0, 1e31, 1e300, 5e-324]
SCALARS = (
    st.none()
    | st.booleans()
    | NUMBERS
    | st.floats(width=32)
    | st.sampled_from(ODD)
    | TEXTS
    | st.binary(max_size=12)
    | st.sampled_from([np.float32(1), np.int64(-1), np.bool_(True), np.float16("nan")])
)
ARRAYS = numpy_st.arrays(
    st.sampled_from(sorted(DTYPES)).map(np.dtype),
    numpy_st.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
)
VALUES = st.recursive(
    SCALARS | ARRAYS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=10,
)
MESSAGES = st.dictionaries(TEXTS, VALUES, max_size=5)


@pytest.fixture(autouse=True, scope="module")
def counted() -> Iterator[None]:
    """Prints how many examples were tried (visible with pytest -s)."""
    yield
    print("\nexamples:", sum(EXAMPLES.values()), dict(EXAMPLES))
    print("refused:", sum(REFUSED.values()), dict(REFUSED))


def cheap(name: str, most: int, read: Callable[[], object]) -> None:
    """Reads: a refusal is one line, it takes little time and memory, and raises no other error.

    What takes too much is done once more, because Python itself may have taken it.
    """
    EXAMPLES[name] += 1
    if not is_cheap(name, most, read):
        assert is_cheap(name, most, read)


def is_cheap(name: str, most: int, read: Callable[[], object]) -> bool:
    tracemalloc.start()
    began_s = time.thread_time()
    try:
        read()
    except WireError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 1500
        REFUSED[f"{name}: {error.kind}"] += 1
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak < most + SPARE_BYTES and time.thread_time() - began_s < MAX_SECONDS


def cost_of(frame: bytes) -> int:
    """The memory that a frame may take to be read and checked."""
    return 4 * len(frame)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes with pieces overwritten, removed, inserted or repeated."""
    patches = st.binary(max_size=12) | st.sampled_from(
        [
            *(head(first, size) for first in (0xC6, 0xC9, 0xDB, 0xDD, 0xDF) for size in (9, 2**31)),
            *(b"\x91" * 40, b"\x81\xa0" * 40, b"\xff" * 8, b"\x00" * 8, b"\xc1", b"\xc3"),
            *(b"|O", b"<U9", b"\xc7\x0c\xff", b"\xcb\x7f\xf0" + bytes(6), b"\xcf" + b"\xff" * 8),
        ]
    )
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 4]))):
        begin = draw(st.integers(0, len(content)))
        end = min(len(content), begin + draw(st.integers(0, 16) | st.integers(0, 4000)))
        patch = draw(patches | st.just(content[begin:end] * 2))
        content = content[:begin] + patch + content[end:]
    return content


def places(tree: Any, trail: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields where the values of plain data are."""
    if trail:
        yield trail
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from places(value, (*trail, key))


def mutated(data: st.DataObject, tree: Any) -> Any:
    """Plain data in which one to three values are replaced, removed, renamed or moved."""
    tree = deepcopy(tree)
    for _ in range(data.draw(st.sampled_from([1, 1, 1, 2, 3]))):
        trails = list(places(tree))
        if not trails:
            break
        *trail, last = data.draw(st.sampled_from(trails))
        parent: Any = tree
        for key in trail:
            parent = parent[key]
        action = data.draw(st.sampled_from(["replace", "replace", "borrow", "remove", "rename"]))
        if action == "replace":
            parent[last] = data.draw(VALUES)
        elif action == "borrow":
            source: Any = tree
            for key in data.draw(st.sampled_from(trails)):
                source = source[key]
            parent[last] = deepcopy(source)
        else:
            value = parent.pop(last)
            if action == "rename" and isinstance(parent, dict):
                parent[data.draw(TEXTS)] = value
    return tree


def sent(facts: PolicyFacts) -> dict[str, Any]:
    """A message of each kind, as data."""
    jpeg = io.BytesIO()
    Image.fromarray(a_picture(16, 16)).save(jpeg, "JPEG")
    noise = np.zeros((32, 14), np.float32)
    return {
        "infer": an_infer().as_data(),
        "infer with noise": an_infer(
            seed=None, index=None, noise=noise, images={"cam_high": jpeg.getvalue()}
        ).as_data(),
        "answer": an_answer(facts).as_data(),
        "refusal": Refusal(sequence=1, kind="late", text="too late").as_data(),
        "ping": Ping(client_ns=1).as_data(),
        "pong": Pong(client_ns=1, server_ns=2).as_data(),
        **{name: message for name, message in messages().items() if name != "answer"},
    }


def read_as_client(data: Any, facts: PolicyFacts) -> None:
    """Reads a message as a server does; what was read says the same once more."""
    message = client_message(data, facts)
    if isinstance(message, Infer):
        for picture in message.pictures(10_000).values():
            check_picture(picture)
    again = client_message(unpack(pack(message.as_data()), BOUNDS), facts)
    assert pack(again.as_data()) == pack(message.as_data())


def read_as_robot(data: Any, facts: PolicyFacts) -> None:
    """Reads a message as a robot does; what was read says the same once more."""
    message = server_message(data, facts)
    if isinstance(message, Answer):
        assert message.actions.shape == (32, 14)
        assert np.isfinite(message.actions).all()
    again = server_message(unpack(pack(message.as_data()), BOUNDS), facts)
    assert pack(again.as_data()) == pack(message.as_data())


def read_as_openpi(data: Any, facts: PolicyFacts) -> None:
    """Reads a message as a server does that speaks openpi's protocol."""
    observation, noise = observation_of(data, KeyMap(), facts, max_pixels=10_000)
    assert observation.state.shape == (facts.manifest.state_dim,)
    assert np.isfinite(observation.state).all()
    assert observation.state.dtype == np.float32
    assert isinstance(observation.prompt, str)
    assert list(observation.images) == list(facts.manifest.cameras)
    for image in observation.images.values():
        check_picture(image)
    if noise is not None:
        assert noise.shape == (32, 14)
        assert np.isfinite(noise).all()


def check_picture(picture: np.ndarray) -> None:
    assert (picture.dtype, picture.ndim, picture.shape[2]) == (np.uint8, 3, 3)
    assert picture.shape[0] * picture.shape[1] <= 100_000


def readers_of(name: str, facts: PolicyFacts, libero: PolicyFacts) -> list[Callable[[Any], None]]:
    """Whoever may get a message: the one whom it is for first."""
    readers: list[Callable[[Any], None]] = [
        lambda data: read_as_client(data, facts),
        lambda data: read_as_robot(data, facts),
        lambda data: read_as_openpi(data, facts),
        lambda data: read_as_openpi(data, libero),
    ]
    firsts = {"answer": 1, "refusal": 1, "pong": 1, "aloha": 2, "libero": 3}
    first = readers[firsts.get(name, 0)]
    return [first, *(reader for reader in readers if reader is not first)]


def read_by_all(name: str, frame: bytes, facts: PolicyFacts, libero: PolicyFacts) -> None:
    """Unpacks a message and reads it as everybody would, who may all refuse it."""
    for number, reader in enumerate(readers_of(name, facts, libero)):

        def read_it(read: Callable[[Any], None] = reader) -> None:
            read(unpack(frame, BOUNDS))

        cheap(f"{name} by {'another' if number else 'its reader'}", cost_of(frame), read_it)


@FUZZ
@given(frame=st.binary(max_size=200) | st.binary(max_size=40).map(lambda x: b"\x81\xa1k" + x))
def test_any_bytes_are_read_or_refused(frame: bytes) -> None:
    def read_it() -> None:
        assert isinstance(unpack(frame, BOUNDS), dict)

    cheap("bytes", cost_of(frame), read_it)


@FUZZ
@given(data=MESSAGES)
def test_what_is_packed_is_read_as_it_was(data: dict[str, Any]) -> None:
    frame = pack(data)

    def read_it() -> None:
        assert pack(unpack(frame, Bounds(max_depth=40))) == frame

    cheap("there and back", cost_of(frame), read_it)


@FUZZ
@given(data=st.data())
def test_a_frame_that_is_read_says_what_msgpack_reads(data: st.DataObject) -> None:
    frame = data.draw(damaged(pack(data.draw(MESSAGES))))

    def read_it() -> None:
        found = unpack(frame, BOUNDS)
        plain = msgpack.unpackb(frame, raw=False, strict_map_key=False)
        assert msgpack.unpackb(pack(found), raw=False, strict_map_key=False) is not None
        assert list(found) == list(plain)

    cheap("against msgpack", cost_of(frame), read_it)


@FUZZ
@given(data=st.data())
def test_bounds_hold_for_whatever_is_read(data: st.DataObject) -> None:
    frame = data.draw(damaged(pack(data.draw(MESSAGES))))

    def read_it() -> None:
        check_bounds(unpack(frame, SMALL), 1)
        assert len(frame) <= SMALL.max_bytes

    cheap("small bounds", cost_of(frame), read_it)


def check_bounds(value: Any, depth: int) -> int:
    """Checks a value against SMALL; returns how many values are in it."""
    assert depth <= SMALL.max_depth + 1
    if isinstance(value, np.ndarray):
        assert value.nbytes <= SMALL.max_array_bytes
        assert value.ndim <= SMALL.max_dims
        assert value.dtype.str in SMALL.dtypes
        return 4
    if isinstance(value, str | bytes):
        assert len(value) <= SMALL.max_array_bytes
        return 1
    if not isinstance(value, dict | list):
        return 1
    if isinstance(value, dict):
        assert all(isinstance(key, str) and len(key) <= SMALL.max_key for key in value)
    inner = value.values() if isinstance(value, dict) else value
    count = 1 + sum(check_bounds(entry, depth + 1) for entry in inner)
    assert count <= SMALL.max_items + 1
    return count


@FUZZ
@given(data=st.data())
def test_a_damaged_message_is_read_or_refused(
    facts: PolicyFacts, libero: PolicyFacts, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(sent(facts))))
    frame = data.draw(damaged(pack(sent(facts)[name])))
    read_by_all(name, frame, facts, libero)


@FUZZ
@given(data=st.data())
def test_the_head_of_a_request_says_the_same_as_all_of_it(
    facts: PolicyFacts, data: st.DataObject
) -> None:
    content = {**an_infer().as_data(), "images": {"cam_high": a_picture(48, 64)}}
    is_whole = data.draw(st.booleans())
    frame = pack(mutated(data, content)) if is_whole else data.draw(damaged(pack(content)))

    def read_it() -> None:
        first = read_head(frame)
        message = client_message(unpack(frame, BOUNDS), facts)
        assert isinstance(message, Infer)
        assert (message.session, message.sequence) == (first.session, first.sequence)
        assert message.budget_ms == first.budget_ms

    cheap("head", cost_of(frame), read_it)


@FUZZ
@given(data=st.data())
def test_a_message_with_other_values_is_read_or_refused(
    facts: PolicyFacts, libero: PolicyFacts, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(sent(facts))))
    frame = pack(mutated(data, sent(facts)[name]))
    read_by_all(name, frame, facts, libero)


@FUZZ
@given(data=MESSAGES)
def test_other_messages_are_refused(
    facts: PolicyFacts, libero: PolicyFacts, data: dict[str, Any]
) -> None:
    frame = pack(data)
    read_by_all("other", frame, facts, libero)


def hello_of(facts: PolicyFacts) -> dict[str, Any]:
    """A Hello with little of what repeats itself, so that other values meet what is special."""
    manifest = facts.manifest
    name, entry = next(iter(manifest.files.items()))
    summary = {key: manifest.data_summary[key] for key in ("fps", "episodes")}
    small = replace(manifest, files={name: entry}, data_summary=summary)
    return a_hello(replace(facts, manifest=small)).as_data()


@FUZZ_METADATA
@given(data=st.data())
def test_damaged_metadata_is_read_or_refused(facts: PolicyFacts, data: st.DataObject) -> None:
    frame = data.draw(damaged(pack(hello_of(facts))))

    def read_it() -> None:
        Hello.from_data(unpack(frame, METADATA_BOUNDS))

    cheap("damaged metadata", 40 * cost_of(frame), read_it)


@FUZZ_METADATA
@given(data=st.data())
def test_metadata_with_other_values_is_read_or_refused(
    facts: PolicyFacts, data: st.DataObject
) -> None:
    frame = pack(mutated(data, hello_of(facts)))

    def read_it() -> None:
        found = Hello.from_data(unpack(frame, METADATA_BOUNDS))
        assert Hello.from_data(unpack(pack(found.as_data()), METADATA_BOUNDS)) == found

    cheap("metadata with other values", 40 * cost_of(frame), read_it)


@FUZZ
@given(data=st.data(), kind=st.sampled_from(["JPEG", "PNG"]), seed=st.integers(0, 99))
def test_a_damaged_picture_is_decoded_or_refused(data: st.DataObject, kind: str, seed: int) -> None:
    options: dict[str, Any] = {"progressive": True} if seed % 2 and kind == "JPEG" else {}
    stream = io.BytesIO()
    pixels = np.frombuffer(random.Random(seed).randbytes(48 * 40 * 3), np.uint8)
    Image.fromarray(pixels.reshape(48, 40, 3)).save(stream, kind, **options)
    content = data.draw(damaged(stream.getvalue()))

    def read_it() -> None:
        check_picture(as_picture(content, "picture", 100_000))

    cheap(f"damaged {kind}", cost_of(content) + 10 * 100_000, read_it)


@FUZZ
@given(value=ARRAYS)
def test_any_array_is_a_picture_or_refused(value: np.ndarray) -> None:
    def read_it() -> None:
        check_picture(as_picture(value, "picture", 100))

    cheap("array as picture", 16 * value.nbytes, read_it)
