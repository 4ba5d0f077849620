"""Clients of a policy server: good ones, and six that are not. `benchmarks/serving.py` starts it.

    python benchmarks/serving_clients.py JOB.json

It imports neither flux nor numpy, and sends a request that was packed before: what a client
computes must not be taken for the server's. The frames are RFC 6455's, masked with zeros.

A job is `kind`, `host`, `port`, `source` (the address that the client comes from), `request` and
`large` (files), `clients`, `seconds`, `out` (a file) and for paced clients `pause_s`:

  good            each client asks, waits for the answer, and asks again, or after its pause
  slow reader     asks 20 times per second and reads one byte per second
  byte            sends one byte per second: of the handshake, and beside it of a request
  flood           sends requests as fast as the server takes them, and reads nothing
  fragments       sends a message in fragments without content, as fast as the server takes them
  large pictures  asks with pictures as large as permitted, and again as soon as it is answered
  half-open       opens a hundred connections per second, and says nothing on them

All but the first do that until they are killed, and connect again when they are cut off.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PING, PONG, CLOSE, BINARY, TEXT = 9, 10, 8, 2, 1
AGAIN_S = 0.05
"""After being cut off."""
LIMIT_S = 60.0
LATER = 15
"""How much nicer abusive peers are than the others."""
HEAD = (
    "GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
Job = Mapping[str, Any]


def main() -> int:
    """Does the job in the file that is named on the command line."""
    job = json.loads(Path(sys.argv[1]).read_text())
    if job["kind"] == "good":
        ask_together(job)
        return 0
    os.nice(LATER)  # an abusive peer has a computer of its own
    kinds: dict[str, list[Callable[[Job], None]]] = {
        "slow reader": [read_slowly],
        "byte": [drip_handshake, drip_request],
        "flood": [flood],
        "fragments": [send_fragments],
        "large pictures": [ask_with_large_pictures],
        "half-open": [open_halfway],
    }
    for peer in kinds[job["kind"]]:
        threading.Thread(target=forever, args=(peer, job), daemon=True).start()
    time.sleep(job["seconds"])
    return 0


def ask_together(job: Job) -> None:
    """Runs the good clients, and writes from when to when each waited."""
    request = frame(Path(job["request"]).read_bytes())
    waits: list[list[tuple[float, float]]] = [[] for _ in range(job["clients"])]
    faults: list[str] = []
    end = time.monotonic() + job["seconds"]

    def run(index: int) -> None:
        try:
            ask(job, request, end, waits[index])
        except (OSError, EOFError, AssertionError) as error:
            faults.append(f"client {index}: {error!r}")

    threads = [threading.Thread(target=run, args=(index,)) for index in range(job["clients"])]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = {"seconds": time.monotonic() - began, "cpu_s": time.process_time()}
    Path(job["out"]).write_text(json.dumps({"waits": waits, "faults": faults, **spent}))


def ask(job: Job, request: bytes, end: float, waits: list[tuple[float, float]]) -> None:
    """One good client: asks until the end, and notes when it asked and when it was answered."""
    pause_s = job.get("pause_s", 0.0)
    with connected(job) as one:
        stream = Stream(one)
        stream.message()  # the metadata
        due = time.monotonic()
        while (began := time.monotonic()) < end:
            one.sendall(request)
            opcode, _ = stream.message()
            waits.append((began, time.monotonic()))
            assert opcode == BINARY, "refused"
            if pause_s:
                due = max(due + pause_s, time.monotonic())
                stream.idle(due)


class Stream:
    """The server's side of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._data = bytearray()

    def message(self) -> tuple[int, bytes]:
        """Returns the next message, and answers the pings before it."""
        while True:
            first, second = self._take(2)
            length = second & 0x7F
            if length >= 126:
                length = int.from_bytes(self._take(2 if length == 126 else 8), "big")
            payload = self._take(length)
            if (opcode := first & 0x0F) == PING:
                self._socket.sendall(frame(payload, PONG))
            elif opcode == CLOSE:
                raise EOFError(f"closed with {payload!r}")
            elif opcode in (BINARY, TEXT):
                return opcode, payload

    def idle(self, until: float) -> None:
        """Waits, and answers pings meanwhile."""
        while (left := until - time.monotonic()) > 0:
            if select.select([self._socket], [], [], left)[0]:
                first, second = self._take(2)
                payload = self._take(second & 0x7F)
                if first & 0x0F != PING:
                    raise EOFError(f"not asked for: {payload!r}")
                self._socket.sendall(frame(payload, PONG))

    def _take(self, count: int) -> bytes:
        while len(self._data) < count:
            data = self._socket.recv(1 << 16)
            if not data:
                raise EOFError("the connection was closed")
            self._data += data
        taken = bytes(self._data[:count])
        del self._data[:count]
        return taken


def frame(payload: bytes, opcode: int = BINARY) -> bytes:
    """Returns a client's frame; a mask of zeros leaves the payload as it is."""
    if len(payload) < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | len(payload))
    elif len(payload) < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, len(payload))
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, len(payload))
    return head + bytes(4) + payload


def opened(job: Job, **options: int) -> socket.socket:
    """Opens a connection from the job's own address."""
    one = socket.socket()
    for name, value in options.items():
        one.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    one.settimeout(LIMIT_S)
    one.bind((job["source"], 0))
    one.connect((job["host"], job["port"]))
    return one


def connected(job: Job, **options: int) -> socket.socket:
    """Opens a connection that is past the handshake."""
    one = opened(job, **options)
    one.sendall(HEAD.format(host=job["host"]).encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        byte = one.recv(1)
        if not byte:
            raise EOFError(f"no handshake: {answer!r}")
        answer += byte
    if b" 101 " not in answer.splitlines()[0]:
        raise EOFError(answer.splitlines()[0])
    return one


def forever(peer: Callable[[Job], None], job: Job) -> None:
    """Runs a peer, again whenever it is cut off."""
    while True:
        try:
            peer(job)
        except (OSError, EOFError):
            time.sleep(AGAIN_S)


def read_slowly(job: Job) -> None:
    """Asks 20 times per second, and reads one byte per second."""
    request = frame(Path(job["request"]).read_bytes())
    with connected(job, SO_RCVBUF=2048) as one:
        for number in range(1 << 30):
            one.sendall(request)
            if number % 20 == 0 and not one.recv(1):
                return
            time.sleep(0.05)


def drip_handshake(job: Job) -> None:
    """Sends a handshake one byte per second."""
    with opened(job) as one:
        drip(one, HEAD.format(host=job["host"]).encode())


def drip_request(job: Job) -> None:
    """Sends a request one byte per second."""
    request = frame(Path(job["request"]).read_bytes())
    with connected(job) as one:
        drip(one, request)


def drip(one: socket.socket, data: bytes) -> None:
    """Sends one byte per second until the connection is closed."""
    for index in range(len(data)):
        one.sendall(data[index : index + 1])
        end = time.monotonic() + 1.0
        while (left := end - time.monotonic()) > 0:
            if select.select([one], [], [], left)[0] and not one.recv(1 << 16):
                return


def flood(job: Job) -> None:
    """Sends requests as fast as they are taken, and reads nothing."""
    request = frame(Path(job["request"]).read_bytes())
    with connected(job) as one:
        while True:
            one.sendall(request)


def send_fragments(job: Job) -> None:
    """Sends a message in fragments without content."""
    empty = struct.pack("!BB", 0, 0x80) + bytes(4)
    with connected(job) as one:
        one.sendall(struct.pack("!BB", BINARY, 0x80) + bytes(4))
        while True:
            one.sendall(empty * 1000)


def ask_with_large_pictures(job: Job) -> None:
    """Asks again and again, with the largest pictures that the server takes."""
    request = frame(Path(job["large"]).read_bytes())
    with connected(job) as one:
        stream = Stream(one)
        stream.message()  # the metadata
        while True:
            one.sendall(request)
            stream.message()


def open_halfway(job: Job) -> None:
    """Opens connections, says nothing on them, and keeps the last few hundred."""
    kept: deque[socket.socket] = deque(maxlen=300)
    while True:
        kept.append(opened(job))
        time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main())
