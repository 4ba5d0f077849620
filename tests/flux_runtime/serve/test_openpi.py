"""openpi's protocol: the answers of a local policy, bit for bit, and one line for each mistake."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flux_runtime.control.policy_source import chunk_noise

from ...serving import Served, observation, serving
from .conftest import SEED, Local, openpi, wait_until


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("serve"), "--seed", SEED) as running:
        yield running


def _actions(answer: dict[str, Any] | str) -> Any:
    assert isinstance(answer, dict), answer
    return answer["actions"]


def test_the_first_message_says_what_is_served(served: Served) -> None:
    with openpi(served) as client:
        metadata = client.metadata
    assert metadata["robot"] == "aloha-sim" and metadata["cameras"] == ["cam_high"]
    assert metadata["sha256"] == served.report["sha256"]


def test_answers_are_those_of_the_local_policy_bit_for_bit(served: Served, local: Local) -> None:
    with openpi(served) as client:
        for number in range(8):
            found = _actions(client.ask(observation(number)))
            assert found.dtype == np.float32 and found.shape == (32, 14)
            np.testing.assert_array_equal(found, local.chunk(number, number))


def test_another_connection_gets_the_same_answers_again(served: Served) -> None:
    rounds = []
    for _ in range(2):
        with openpi(served) as client:
            rounds.append([_actions(client.ask(observation(5))) for _ in range(3)])
    np.testing.assert_array_equal(rounds[0], rounds[1])
    assert np.abs(rounds[0][0] - rounds[0][1]).max() > 0


def test_a_request_may_bring_its_noise(served: Served, local: Local) -> None:
    noise = chunk_noise(99, 3, (32, 14))
    with openpi(served) as client:
        client.ask(observation(0))
        for given in (noise, noise[None]):
            found = _actions(client.ask({**observation(1), "noise": given}))
            np.testing.assert_array_equal(found, local.chunk(1, 3, seed=99))


def _variants() -> dict[str, dict[str, Any]]:
    data = observation(2)
    image = data["images"]["cam_high"]
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="png")
    return {
        "flat": {
            "observation/state": data["state"],
            "observation/images/cam_high": image,
            "prompt": data["prompt"],
        },
        "channels first": {**data, "images": {"cam_high": image.transpose(2, 0, 1)}},
        "list of numbers": {**data, "state": [float(x) for x in data["state"]]},
        "float64": {**data, "state": data["state"].astype(np.float64)},
        "compressed": {**data, "images": {"cam_high": file.getvalue()}},
        "default prompt": {key: data[key] for key in ("state", "images")},
        "keys that mean nothing here": {**data, "reset": True, "step": 4},
    }


@pytest.mark.parametrize("name", _variants())
def test_observations_of_other_forms_are_the_same(served: Served, local: Local, name: str) -> None:
    with openpi(served) as client:
        found = _actions(client.ask(_variants()[name]))
    np.testing.assert_array_equal(found, local.chunk(2, 0))


def _mistakes() -> dict[str, tuple[Any, str]]:
    data = observation(0)
    return {
        "no state": ({"images": data["images"]}, "missing"),
        "no camera": ({"state": data["state"]}, "missing"),
        "short state": ({**data, "state": data["state"][:7]}, "bad_request"),
        "nan": ({**data, "state": np.full(14, np.nan, np.float32)}, "bad_request"),
        "picture": ({**data, "images": {"cam_high": b"no picture"}}, "bad_picture"),
        "large picture": (
            {**data, "images": {"cam_high": np.zeros((1500, 1500, 3), np.uint8)}},
            "oversized",
        ),
        "noise": ({**data, "noise": np.zeros((3, 3), np.float32)}, "bad_request"),
        "prompt": ({**data, "prompt": "word " * 2000}, "bad_request"),
        "text": ("hello", "malformed"),
        "no map": (b"\x93\x01\x02\x03", "malformed"),
        "empty": (b"", "malformed"),
        "deep": (b"\x81\xa1a" * 3000 + b"\xc0", "too_deep"),
        "long": (b"\x81\xa1a\xdd\xff\xff\xff\xff", "too_many_items"),
        "huge claim": (b"\x81\xa1a\xc6\xff\xff\xff\xff", "oversized"),
        "pickle": (b"\x80\x04\x95\x0f\x00\x00\x00.", "malformed"),
    }


@pytest.mark.parametrize("name", _mistakes())
def test_a_mistake_is_one_line_and_the_next_request_is_answered(served: Served, name: str) -> None:
    message, kind = _mistakes()[name]
    label = f'flux_serve_refusals_total{{kind="{kind}"}}'
    before = served.metrics().get(label, 0.0)
    with openpi(served) as client:
        line = client.ask(message)
        assert isinstance(line, str) and "\n" not in line and "Traceback" not in line
        assert _actions(client.ask(observation(0))).shape == (32, 14)
    assert served.metrics()[label] == before + 1


def test_the_bytes_of_every_message_are_given_back(served: Served) -> None:
    with openpi(served) as client:
        for message in ("€" * 10_000, b"\x93", observation(0), b""):
            client.ask(message)
        assert served.metrics()["flux_serve_bytes_in_flight"] == 0.0


def test_answers_tell_their_times(served: Served) -> None:
    with openpi(served) as client:
        began_s = time.perf_counter()
        answer = client.ask(observation(0))
        took_ms = (time.perf_counter() - began_s) * 1e3
    assert isinstance(answer, dict)
    timing: Any = answer["server_timing"]
    assert set(timing) == {"queue_ms", "decode_ms", "encode_ms", "infer_ms", "total_ms"}
    assert 0 < timing["infer_ms"] <= timing["total_ms"] <= took_ms


def test_requests_in_advance_are_answered_in_their_order_and_old_ones_replaced(
    served: Served, local: Local
) -> None:
    with openpi(served) as client:
        for number in range(8):
            client.connection.send(_packed(number))
        answers = [client.answer() for _ in range(8)]
    replaced = [number for number, answer in enumerate(answers) if isinstance(answer, str)]
    assert replaced and 7 not in replaced
    for number, answer in enumerate(answers):
        if isinstance(answer, str):
            assert answer == "replaced: a newer request of the same client replaces it"
        else:
            np.testing.assert_array_equal(answer["actions"], local.chunk(number, number))


def _packed(number: int) -> bytes:
    from flux_runtime.wire import pack

    return pack(observation(number))


def test_pings_are_answered_during_inference(served: Served) -> None:
    with openpi(served) as client:
        client.connection.send(_packed(0))
        assert client.connection.ping().wait(30)
        assert isinstance(client.answer(), dict)


def test_clients_at_the_same_time_are_all_served(served: Served, local: Local) -> None:
    counts = [0] * 6
    faults: list[BaseException] = []

    def ask(index: int) -> None:
        try:
            with openpi(served) as client:
                for number in range(10):
                    found = _actions(client.ask(observation(index)))
                    np.testing.assert_array_equal(found, local.chunk(index, number))
                    counts[index] += 1
        except BaseException as error:  # noqa: BLE001 - told below
            faults.append(error)

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not faults and counts == [10] * 6


def test_what_was_done_is_counted(served: Served) -> None:
    def is_alone() -> bool:
        return served.metrics()["flux_serve_connections"] == 0.0

    wait_until(is_alone, "the clients of the last test are still there")
    before = served.metrics()
    with openpi(served) as client:
        for number in range(3):
            client.ask(observation(number))
        client.ask("wrong")
        now = served.metrics()
        assert now["flux_serve_connections"] == 1.0

    def gained(name: str) -> float:
        return now[name] - before[name]

    assert gained('flux_serve_requests_total{protocol="openpi"}') == 3.0
    assert gained('flux_serve_answers_total{protocol="openpi"}') == 3.0
    assert gained('flux_serve_refusals_total{kind="malformed"}') == 1.0
    for stage in ("queue", "decode", "encode", "infer", "send", "total"):
        assert gained(f'flux_serve_stage_seconds_count{{stage="{stage}"}}') == 3.0
    assert now["flux_serve_bytes_in_flight"] == now["flux_serve_waiting"] == 0.0


def test_a_crowd_that_opens_nothing_makes_room_for_a_robot(served: Served) -> None:
    name = 'flux_serve_handshakes_refused_total{kind="crowded"}'
    before = served.metrics().get(name, 0.0)
    with contextlib.ExitStack() as stack:
        for number in range(150):
            one = stack.enter_context(socket.socket())
            one.bind((f"127.0.0.{2 + number % 2}", 0))
            one.connect(("127.0.0.1", served.port))
        with openpi(served) as client:
            assert _actions(client.ask(observation(0))).shape == (32, 14)
        assert served.metrics()[name] > before


def test_the_log_has_a_line_per_event_and_no_traceback(served: Served) -> None:
    with openpi(served) as client:
        client.ask({"state": [1.0]})
    for event in ("connected", "refused", "disconnected"):
        wait_until(partial(served.events, event), f"no line about {event}")
    assert "Traceback" not in served.log.read_text()
