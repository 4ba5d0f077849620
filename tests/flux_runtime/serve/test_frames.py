"""The gate finds the frames that a WebSocket library has written, however they are cut up."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from flux_runtime.serve.frames import (
    CONTINUATION_COST,
    CONTROL_COST,
    MAX_FRAMES_AT_ONCE,
    FrameGate,
)


class _Toll:
    """Lets frames through until its money is spent."""

    def __init__(self, money: float = 1e9) -> None:
        self.money = money
        self.costs: list[float] = []

    def wait_s(self, cost: float, now_s: float) -> float:
        if self.money < cost:
            return 1.5
        self.money -= cost
        self.costs.append(cost)
        return 0.0


def _frame(opcode: Opcode, payload: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, payload, fin).serialize(mask=True)


_SIZES = st.sampled_from([0, 1, 125, 126, 127, 300, 65_535, 65_536])


@given(
    st.lists(st.tuples(_SIZES, st.booleans()), max_size=4),
    st.lists(st.floats(0.0, 1.0), max_size=8),
    st.integers(1, 20),
)
def test_messages_are_counted_in_any_pieces(
    sizes: list[tuple[int, bool]], cuts: list[float], first: int
) -> None:
    stream, total, costs = b"", 0, []
    for size, is_split in sizes:
        total += size
        if is_split:
            stream += _frame(Opcode.BINARY, bytes(size // 2), fin=False)
            stream += _frame(Opcode.PING, b"here?")
            stream += _frame(Opcode.CONT, bytes(size - size // 2))
            costs += [1.0, CONTROL_COST, CONTINUATION_COST]
        else:
            stream += _frame(Opcode.BINARY, bytes(size))
            costs.append(1.0)
    toll = _Toll()
    gate = FrameGate(toll.wait_s)
    places = sorted({0, *range(first), *(int(cut * len(stream)) for cut in cuts), len(stream)})
    for begin, end in pairwise(place for place in places if place <= len(stream)):
        piece = memoryview(stream)[begin:end]
        assert gate.admit(piece, 0.0) == (end - begin, 0.0)
    assert toll.costs == costs
    assert gate.payload == total
    assert gate.began_s is None


def test_a_frame_that_must_wait_is_held_back_from_its_first_byte() -> None:
    toll = _Toll(2.0)
    gate = FrameGate(toll.wait_s)
    one = _frame(Opcode.BINARY, b"x" * 200)
    assert gate.admit(memoryview(one * 3), 0.0) == (2 * len(one), 1.5)
    toll.money = 5.0
    assert gate.admit(memoryview(one), 1.5) == (len(one), 0.0)
    assert gate.payload == 600


def test_other_connections_have_their_turn_between_many_frames() -> None:
    gate = FrameGate(_Toll().wait_s)
    empty = _frame(Opcode.PING, b"")
    stream = memoryview(empty * (MAX_FRAMES_AT_ONCE + 7))
    admitted, wait_s = gate.admit(stream, 0.0)
    assert (admitted, wait_s) == (MAX_FRAMES_AT_ONCE * len(empty), 0.0)
    assert gate.admit(stream[admitted:], 0.0) == (7 * len(empty), 0.0)


@pytest.mark.parametrize("sent", [1, 2, 5, 10, 13, 20])
def test_an_unfinished_message_has_a_beginning(sent: int) -> None:
    gate = FrameGate(_Toll().wait_s)
    frame = _frame(Opcode.BINARY, bytes(70_000))
    gate.admit(memoryview(frame[:sent]), 7.0)
    assert gate.began_s == 7.0
    gate.admit(memoryview(frame[sent : sent + 1]), 9.0)
    assert gate.began_s == 7.0


def test_a_message_in_fragments_begins_with_the_first_one() -> None:
    gate = FrameGate(_Toll().wait_s)
    gate.admit(memoryview(_frame(Opcode.BINARY, b"a", fin=False)), 1.0)
    gate.admit(memoryview(_frame(Opcode.PING, b"")), 2.0)
    assert (gate.began_s, gate.fragments) == (1.0, 1)
    gate.admit(memoryview(_frame(Opcode.CONT, b"b")), 3.0)
    assert (gate.began_s, gate.fragments) == (None, 0)


def test_short_fragments_cost_as_much_as_control_frames() -> None:
    further: list[float] = []
    gate = FrameGate(_Toll().wait_s, further.append)
    gate.admit(memoryview(_frame(Opcode.BINARY, b"a", fin=False)), 0.0)
    gate.admit(memoryview(_frame(Opcode.CONT, bytes(4096), fin=False)), 0.0)
    assert not further
    gate.admit(memoryview(_frame(Opcode.CONT, b"b")), 0.0)
    assert further == [CONTROL_COST - CONTINUATION_COST]


def test_an_announced_size_is_not_believed_before_it_has_come() -> None:
    gate = FrameGate(_Toll().wait_s)
    head = struct.pack("!BBQ", 0x82, 0xFF, 2**62) + bytes(4)
    gate.admit(memoryview(head + b"few"), 0.0)
    assert gate.payload == 3
