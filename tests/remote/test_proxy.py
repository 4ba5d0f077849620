"""The proxy itself delays, stalls, takes down and cuts as it says."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from .proxy import FrameCounter, Network, Proxy, proxied

HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
DELAY_S, STALL_S = 0.25, 0.1


def frame(payload: bytes, opcode: int = 2, *, is_masked: bool = False) -> bytes:
    """A frame of the sizes that occur."""
    mask = 0x80 if is_masked else 0
    if len(payload) < 126:
        head = struct.pack("!BB", 0x80 | opcode, mask | len(payload))
    elif len(payload) < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, mask | 126, len(payload))
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, mask | 127, len(payload))
    return head + (b"abcd" if is_masked else b"") + payload


@contextmanager
def echoing() -> Iterator[str]:
    """An address at which everything is sent back."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def echo(one: socket.socket) -> None:
            with one:
                while data := one.recv(1 << 16):
                    one.sendall(data)

        def accept() -> None:
            while True:
                try:
                    one, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=echo, args=(one,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def connected(proxy: Proxy) -> socket.socket:
    """A connection that is past HTTP, in both directions."""
    host, _, port = proxy.address.rpartition(":")
    one = socket.create_connection((host, int(port)), timeout=30)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    asked(one, HEAD)
    return one


def asked(one: socket.socket, data: bytes) -> float:
    """Sends, and returns how many seconds it took until all of it came back."""
    began_s = time.monotonic()
    one.sendall(data)
    found = b""
    while len(found) < len(data):
        part = one.recv(1 << 20)
        if not part:
            raise ConnectionResetError("the connection was ended, or reset")
        found += part
    assert found == data
    return time.monotonic() - began_s


@pytest.mark.parametrize("size", [0, 125, 126, 70_000])
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_messages_are_counted_wherever_the_stream_is_cut(size: int, step: int) -> None:
    stream = HEAD + b"".join(
        (
            frame(b"p" * 5, 9),
            frame(b"x" * size, is_masked=True),
            frame(b"t", 1),
            frame(b"x" * size),
            frame(b"", 8),
        )
    )
    counter = FrameCounter()
    cuts = range(0, len(stream), step)
    assert sum(counter.take(stream[cut : cut + step]) for cut in cuts) == 3


def test_half_of_the_delay_is_in_each_direction() -> None:
    with echoing() as address, proxied(address, Network(delay_s=DELAY_S)) as proxy:
        one = connected(proxy)
        took_s = min(asked(one, frame(b"x" * 200_000)) for _ in range(3))
        assert DELAY_S <= took_s < 2 * DELAY_S
        assert proxy.passed.messages == {"requests": 3, "answers": 3}


def test_the_same_messages_stall_in_every_run() -> None:
    found: list[list[int]] = []
    with echoing() as address:
        for _ in range(2):
            with proxied(address, Network(stalled=0.2, stall_s=STALL_S, seed=5)) as proxy:
                one = connected(proxy)
                stalls = [0]
                for _ in range(12):
                    took_s = asked(one, frame(b"x"))
                    stalls.append(proxy.passed.stalls)
                    assert took_s >= STALL_S * (stalls[-1] - stalls[-2])
                found.append(stalls)
                assert stalls[-1] > 0
    assert found[0] == found[1]


def test_a_link_that_is_down_says_nothing_and_loses_nothing() -> None:
    with echoing() as address, proxied(address) as proxy:
        one = connected(proxy)
        proxy.take_down()
        one.settimeout(0.3)
        one.sendall(frame(b"x"))
        with pytest.raises(TimeoutError):
            one.recv(1)
        proxy.bring_up()
        one.settimeout(30)
        assert one.recv(100) == frame(b"x")


def test_a_cut_ends_connections_and_new_ones_come_through() -> None:
    with echoing() as address, proxied(address) as proxy:
        one = connected(proxy)
        proxy.cut()
        with pytest.raises(OSError, match="reset|Broken pipe"):
            asked(one, frame(b"x"))
        asked(connected(proxy), frame(b"x"))


def test_a_server_that_is_gone_is_a_connection_that_ends() -> None:
    with echoing() as address:
        pass
    with proxied(address) as proxy:
        host, _, port = proxy.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=30) as one:
            assert one.recv(1) == b""
