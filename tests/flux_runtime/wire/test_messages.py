"""Our protocol: every message there and back, and every field that a stranger could send."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from flux_core.rtc import RTCConfig
from flux_runtime.chunking import Chunking
from flux_runtime.engines.core import load_core
from flux_runtime.wire import METADATA_BOUNDS, Bounds, PolicyFacts, WireError, pack, unpack
from flux_runtime.wire.fields import continuation_settings
from flux_runtime.wire.messages import (
    REFUSAL_KINDS,
    Answer,
    Continued,
    Hello,
    Infer,
    Ping,
    Pong,
    Refusal,
    client_message,
    server_message,
)

from .conftest import CONTINUATION, a_hello, a_picture, an_answer, an_infer

Data = dict[str, Any]
NOT_INTEGERS = (None, True, 1.0, -1, 2**63, "1", b"1", [1], {}, np.int64(1))
NOT_NUMBERS = (None, True, -1.0, float("nan"), float("inf"), 1e10, "1", [1.0], np.float32(1))
NOT_TEXTS = (None, True, 1, b"text", ["text"], {})


def there(message: Any) -> Data:
    """A message's content as the other side reads it."""
    return unpack(pack(message.as_data()), Bounds())


def same(found: Any, expected: Any) -> bool:
    """Whether two messages are equal; arrays bit for bit."""
    return type(found) is type(expected) and pack(found.as_data()) == pack(expected.as_data())


def refused(read: Callable[[], object]) -> WireError:
    with pytest.raises(WireError) as caught:
        read()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    return caught.value


def test_a_hello_arrives_as_it_was(facts: PolicyFacts) -> None:
    data = unpack(pack(a_hello(facts).as_data()), METADATA_BOUNDS)
    assert Hello.from_data(data) == a_hello(facts)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"continued": None},
        {"seed": None, "index": None, "noise": np.full((32, 14), 0.5, np.float32)},
        {"images": {"cam_high": b"\xff\xd8"}},
        {"captured_ns": {}},
        {"prompt": ""},
        {"budget_ms": 0.0},
    ],
    ids=str,
)
def test_a_request_arrives_as_it_was(facts: PolicyFacts, changes: Data) -> None:
    sent = an_infer(**changes)
    found = client_message(there(sent), facts)
    assert same(found, sent)


def test_a_request_without_what_it_does_not_need_is_read(facts: PolicyFacts) -> None:
    data = there(an_infer(continued=None))
    del data["continued"], data["noise"]
    assert same(client_message(data, facts), an_infer(continued=None))


def test_an_answer_arrives_as_it_was(facts: PolicyFacts) -> None:
    assert same(server_message(there(an_answer(facts)), facts), an_answer(facts))


@pytest.mark.parametrize("kind", REFUSAL_KINDS)
@pytest.mark.parametrize("sequence", [None, 7])
def test_a_refusal_arrives_as_it_was(facts: PolicyFacts, kind: Any, sequence: int | None) -> None:
    sent = Refusal(sequence=sequence, kind=kind, text="too late by 3 ms")
    assert server_message(there(sent), facts) == sent


def test_a_refusal_is_one_line_on_both_sides(facts: PolicyFacts) -> None:
    sent = Refusal(sequence=1, kind="failed", text="two\nlines\x1b[2J" + "x" * 2000)
    assert sent.as_data()["text"].isprintable()
    data = sent.as_data() | {"text": "two\nlines\x1b[2J"}
    assert Refusal.from_data(data).text == "two lines [2J"
    assert len(sent.as_data()["text"]) == 1000


def test_a_refusal_of_a_newer_server_is_a_failure() -> None:
    data = {"type": "refusal", "sequence": 1, "kind": "too hot", "text": "wait"}
    assert Refusal.from_data(data).kind == "failed"


def test_pings_and_pongs_arrive_as_they_were(facts: PolicyFacts) -> None:
    assert client_message(there(Ping(client_ns=5)), facts) == Ping(client_ns=5)
    pong = Pong(client_ns=5, server_ns=2**62)
    assert server_message(there(pong), facts) == pong


def test_pictures_are_decoded_when_they_are_asked_for(facts: PolicyFacts) -> None:
    found = client_message(there(an_infer()), facts)
    assert isinstance(found, Infer)
    assert np.array_equal(found.pictures()["cam_high"], a_picture())
    assert refused(lambda: found.pictures(max_pixels=47)).kind == "oversized"
    broken = replace(found, images={"cam_high": b"\xff\xd8"})
    assert refused(broken.pictures).kind == "bad_picture"


def test_all_pictures_of_a_request_together_are_bounded(facts: PolicyFacts) -> None:
    cameras = ("cam_high", "cam_low")
    both = replace(facts, manifest=replace(facts.manifest, cameras=cameras))
    found = client_message(there(an_infer(images=dict.fromkeys(cameras, a_picture()))), both)
    assert isinstance(found, Infer)
    assert len(found.pictures(max_pixels=96)) == 2
    assert "cam_low" in str(refused(lambda: found.pictures(max_pixels=95)))


@pytest.mark.parametrize("kind", [None, "", "hello", "Infer", 1, b"infer", ["infer"], {}])
def test_messages_of_no_known_type_are_refused(facts: PolicyFacts, kind: object) -> None:
    for read in (client_message, server_message):
        error = refused(lambda read=read: read({"type": kind}, facts))
        assert error.kind == "malformed"


def test_no_side_reads_the_messages_of_the_other(facts: PolicyFacts) -> None:
    refused(lambda: server_message(there(an_infer()), facts))
    refused(lambda: server_message(there(Ping(client_ns=1)), facts))
    refused(lambda: client_message(there(an_answer(facts)), facts))
    refused(lambda: client_message(there(Pong(client_ns=1, server_ns=1)), facts))


def bad_fields() -> list[tuple[tuple[str, ...], object]]:
    """Places in a request and values that do not belong there."""
    wrong: dict[tuple[str, ...], tuple[object, ...]] = {
        ("session",): (*NOT_TEXTS, "", "short", "x" * 129, "0" * 31 + "\n", "é" * 32, " " * 32),
        ("sequence",): NOT_INTEGERS,
        ("sent_ns",): NOT_INTEGERS,
        ("captured_ns",): (None, [], 1, {"cam_low": 1}, {"": 1}),
        ("captured_ns", "state"): NOT_INTEGERS,
        ("captured_ns", "cam_high"): NOT_INTEGERS,
        ("budget_ms",): NOT_NUMBERS,
        ("state",): (
            *(None, "state", 1.0, True, [True] * 14, ["0"] * 14, np.zeros(13), np.zeros(15)),
            *(np.zeros((1, 14)), np.zeros(14, bool), np.full(14, np.nan), np.full(14, 1e31)),
        ),
        ("images",): (None, [], {}, {"cam_low": a_picture()}, {"cam_high": None}),
        ("images", "cam_high"): (None, 1, "jpeg", [0], {}),
        ("images", "cam_low"): (a_picture(),),
        ("prompt",): (*NOT_TEXTS, "x" * 4097),
        ("noise",): (np.zeros((32, 14)), [], 1),  # beside a seed
        ("seed",): NOT_INTEGERS,
        ("index",): NOT_INTEGERS,
        ("continued",): (1, [], {}, "x"),
        ("continued", "previous"): (
            *(None, [[0.0] * 14], np.zeros(14), np.zeros((2, 13)), np.zeros((33, 14))),
            *(np.zeros((2, 14), np.int32), np.full((2, 14), np.nan), np.full((2, 14), -np.inf)),
        ),
        ("continued", "prefix_len"): (*NOT_INTEGERS, 3),
        ("continued", "more"): (1,),
        ("continued", "settings"): (None, {}, []),
        ("continued", "settings", "method"): (*NOT_TEXTS, "", "other"),
        ("continued", "settings", "schedule"): (*NOT_TEXTS, "", "other"),
        ("continued", "settings", "prefix_len"): (True, -1, 33, 1.0, "1"),
        ("continued", "settings", "decay_end"): (True, -1, 2**31, 1.0, "1"),
        ("continued", "settings", "max_guidance_weight"): (*NOT_NUMBERS, 0.0),
        ("continued", "settings", "use_vjp"): (None, 1, True),
        ("continued", "settings", "delays"): (None, [], 1, [True], [-1], [0.0], [5000], "0"),
        ("continued", "settings", "more"): (1,),
        ("more",): (1,),
    }
    return [(place, value) for place, values in wrong.items() for value in values]


@pytest.mark.parametrize(("place", "value"), bad_fields(), ids=lambda part: repr(part)[:40])
def test_a_request_with_a_wrong_field_is_refused(
    facts: PolicyFacts, place: tuple[str, ...], value: object
) -> None:
    data = deepcopy(an_infer().as_data())
    section = data
    for key in place[:-1]:
        section = section[key]
    section[place[-1]] = value
    error = refused(lambda: client_message(data, facts))
    assert "infer" in str(error) or "noise" in str(error)


@pytest.mark.parametrize(
    "key", sorted(an_infer().as_data().keys() - {"type", "noise", "continued"})
)
def test_a_request_without_one_of_its_fields_is_refused(facts: PolicyFacts, key: str) -> None:
    data = an_infer().as_data()
    del data[key]
    refused(lambda: client_message(data, facts))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("sequence", value) for value in NOT_INTEGERS),
        *(("received_ns", value) for value in NOT_INTEGERS),
        *(("sent_ns", value) for value in NOT_INTEGERS),
        ("captured_ns", {"other": 1}),
        ("captured_ns", None),
        ("times_ms", {"other": 1.0}),
        ("times_ms", None),
        *(("times_ms", {"infer": value}) for value in NOT_NUMBERS),
        ("actions", None),
        ("actions", [[0.0] * 14] * 32),
        ("actions", np.zeros((31, 14), np.float32)),
        ("actions", np.zeros((33, 14), np.float32)),
        ("actions", np.zeros((32, 13), np.float32)),
        ("actions", np.zeros((1, 32, 14), np.float32)),
        ("actions", np.zeros((32, 14), np.int32)),
        ("actions", np.zeros((32, 14), bool)),
        ("actions", np.full((32, 14), np.nan, np.float32)),
        ("actions", np.full((32, 14), np.inf, np.float32)),
        ("actions", np.full((32, 14), -3e38, np.float32)),
        ("actions", np.full((32, 14), 1e300)),
        ("more", 1),
    ],
    ids=lambda part: repr(part)[:30],
)
def test_an_answer_with_a_wrong_field_is_refused(
    facts: PolicyFacts, key: str, value: object
) -> None:
    data = an_answer(facts).as_data() | {key: value}
    refused(lambda: server_message(data, facts))


def test_one_bad_number_in_a_chunk_is_enough(facts: PolicyFacts) -> None:
    actions = np.zeros((32, 14), np.float32)
    actions[31, 13] = np.nan
    refused(lambda: server_message(there(an_answer(facts, actions=actions)), facts))


@pytest.mark.parametrize("key", ["sequence", "actions", "captured_ns", "sent_ns", "times_ms"])
def test_an_answer_without_one_of_its_fields_is_refused(facts: PolicyFacts, key: str) -> None:
    data = an_answer(facts).as_data()
    del data[key]
    refused(lambda: server_message(data, facts))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("protocol", 2),
        ("protocol", True),
        ("protocol", None),
        ("type", "welcome"),
        ("session", "x"),
        ("session", None),
        ("facts", {}),
        ("facts", None),
        ("limits", None),
        ("limits", {"max_bytes": 0, "requests_per_s": 1.0}),
        ("limits", {"max_bytes": 2**41, "requests_per_s": 1.0}),
        ("limits", {"max_bytes": 1, "requests_per_s": float("nan")}),
        ("limits", {"max_bytes": 1}),
        *(("server_ns", value) for value in NOT_INTEGERS),
        ("more", 1),
    ],
    ids=lambda part: repr(part)[:30],
)
def test_a_hello_with_a_wrong_field_is_refused(facts: PolicyFacts, key: str, value: object) -> None:
    data = a_hello(facts).as_data() | {key: value}
    refused(lambda: Hello.from_data(data))


def test_a_server_of_another_protocol_is_told_from_a_broken_one(facts: PolicyFacts) -> None:
    error = refused(lambda: Hello.from_data({"type": "hello", "protocol": 2, "new": 1}))
    assert error.kind == "unsupported"
    assert "Update" in str(error)
    assert refused(lambda: Hello.from_data(facts.as_data())).kind == "unsupported"  # openpi's


@pytest.mark.parametrize("kind", ["ping", "pong", "refusal"])
@pytest.mark.parametrize("value", NOT_INTEGERS[1:])
def test_other_messages_with_a_wrong_number_are_refused(
    facts: PolicyFacts, kind: str, value: object
) -> None:
    messages: dict[str, Data] = {
        "ping": {"type": "ping", "client_ns": value},
        "pong": {"type": "pong", "client_ns": 1, "server_ns": value},
        "refusal": {"type": "refusal", "sequence": value, "kind": "late", "text": "x"},
    }
    read = client_message if kind == "ping" else server_message
    refused(lambda: read(messages[kind], facts))


@pytest.mark.parametrize(
    "rtc",
    [
        RTCConfig(),
        RTCConfig(method="guidance", decay_end=20, schedule="linear", max_guidance_weight=2.5),
        RTCConfig(prefix_len=4, schedule="zeros"),
    ],
)
def test_the_settings_of_every_run_pass_and_fit_the_core(rtc: RTCConfig) -> None:
    chunking = Chunking(mode="rtc", reason="", rtc=rtc, trained_delays=(0, 4, 8))
    settings = chunking.continuation()
    found = continuation_settings("settings", settings, 32)
    assert found == settings
    assert found.keys() == (asdict(rtc).keys() - {"enabled"}) | {"delays"}
    load_core().ContinuationSettings(**found)


def test_a_continuation_arrives_as_it_was(facts: PolicyFacts) -> None:
    for rows in (0, 32):
        previous = np.zeros((rows, 14), np.float32)
        sent = Continued(previous=previous, prefix_len=rows, settings=CONTINUATION)
        found = client_message(there(an_infer(continued=sent)), facts)
        assert isinstance(found, Infer)
        assert found.continued is not None
        assert found.continued.previous.shape == (rows, 14)
        assert found.continued.settings == CONTINUATION


def test_arrays_that_were_read_belong_to_the_reader(facts: PolicyFacts) -> None:
    found = server_message(there(an_answer(facts)), facts)
    assert isinstance(found, Answer)
    found.actions[0, 0] = 1.0  # not a view of a frame
    assert found.actions.flags.c_contiguous
