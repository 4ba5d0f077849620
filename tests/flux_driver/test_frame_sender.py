"""Pictures handed to a recording process: the one who hands them over never waits."""

from __future__ import annotations

import json
import mmap
import socket
from collections.abc import Iterator

import numpy as np
import pytest

from flux_driver.recording import FrameSender
from flux_driver.recording.frame_sender import MAX_SLOTS, MIN_SLOTS, STREAM_BYTES

SHAPE = (4, 6, 3)


@pytest.fixture
def ends() -> Iterator[tuple[FrameSender, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sender = FrameSender(ours)
    with theirs:
        yield sender, theirs
        sender.close()


def received(connection: socket.socket) -> tuple[dict[str, object], list[int]]:
    data, descriptors, _, _ = socket.recv_fds(connection, 1 << 17, 1)
    return json.loads(data), descriptors


def test_a_picture_is_read_from_shared_memory(ends: tuple[FrameSender, socket.socket]) -> None:
    sender, theirs = ends
    sender.add_stream("top", SHAPE, np.uint8)
    assert sender.missing() == ["top"]
    image = np.arange(72, dtype=np.uint8).reshape(SHAPE)
    assert sender.put("top", image, 123)
    assert sender.missing() == []
    stream, (descriptor,) = received(theirs)
    frame, _ = received(theirs)
    assert (stream["name"], stream["shape"], stream["dtype"]) == ("top", list(SHAPE), "|u1")
    assert (frame["slot"], frame["time_ns"], frame["dropped"]) == (0, 123, 0)
    memory = mmap.mmap(descriptor, 72 * int(str(stream["slots"])))
    assert memory[:72] == image.tobytes()


def test_pictures_are_dropped_while_no_slot_is_free(
    ends: tuple[FrameSender, socket.socket],
) -> None:
    sender, theirs = ends
    sender.add_stream("top", SHAPE, np.uint8)
    image = np.zeros(SHAPE, np.uint8)
    handed = [sender.put("top", image, number) for number in range(MAX_SLOTS + 3)]
    assert handed == [True] * MAX_SLOTS + [False] * 3
    theirs.send(json.dumps({"kind": "free", "slots": [[0, 7]]}).encode() + b"\n")
    assert sender.put("top", image, 999)
    received(theirs)
    frames = [received(theirs)[0] for _ in range(MAX_SLOTS + 1)]
    assert (frames[-1]["slot"], frames[-1]["time_ns"], frames[-1]["dropped"]) == (7, 999, 3)


def test_a_message_that_nobody_reads_costs_a_picture_and_no_slot(
    ends: tuple[FrameSender, socket.socket],
) -> None:
    sender, theirs = ends
    names = [f"camera {number}" for number in range(8)]
    for name in names:
        sender.add_stream(name, SHAPE, np.uint8)
    image = np.zeros(SHAPE, np.uint8)
    handed = [sender.put(name, image, 1) for _ in range(MAX_SLOTS) for name in names]
    assert not all(handed)  # the socket is full
    for _ in range(len(names) + sum(handed)):
        received(theirs)
    assert sender.put(names[0], image, 2)


def test_a_recording_that_has_ended_is_noticed(ends: tuple[FrameSender, socket.socket]) -> None:
    sender, theirs = ends
    sender.add_stream("top", SHAPE, np.uint8)
    theirs.close()
    assert not sender.put("top", np.zeros(SHAPE, np.uint8), 1, is_waiting=True)
    assert not sender.is_open


def test_large_pictures_take_a_bounded_memory(ends: tuple[FrameSender, socket.socket]) -> None:
    sender, theirs = ends
    large = (1080, 1920, 3)
    sender.add_stream("large", large, np.uint8)
    stream, _ = received(theirs)
    assert MIN_SLOTS <= int(str(stream["slots"])) <= STREAM_BYTES // np.prod(large)
