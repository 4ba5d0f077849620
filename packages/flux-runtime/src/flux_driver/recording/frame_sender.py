"""Hands pictures to a recording process through shared memory, without waiting for it.

Each stream, a camera or another sensor, has some slots in a memory of its own. A slot is filled,
named in a message of a SOCK_SEQPACKET socket, and free again when the recording process says so. A
picture that finds no free slot is dropped and counted. `flux-data record` has the other end.
"""

from __future__ import annotations

import array
import json
import mmap
import os
import select
import socket
import threading
from collections import deque
from typing import Any, Sequence

import numpy as np

STREAM_BYTES = 64 << 20
"""Of one stream, unless few pictures need less: two seconds of 640 x 480 at 30 Hz."""
MIN_SLOTS, MAX_SLOTS = 6, 128
MAX_BYTES = 1 << 17
WAIT_S = 0.1


class _Stream:
    """The slots of one sensor."""

    def __init__(self, number: int, shape: Sequence[int], dtype: Any) -> None:
        self.number = number
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        size = int(np.prod(self.shape)) * self.dtype.itemsize
        self.num_slots = max(MIN_SLOTS, min(MAX_SLOTS, STREAM_BYTES // size))
        self.descriptor = os.memfd_create("flux-recording", os.MFD_CLOEXEC)
        os.ftruncate(self.descriptor, self.num_slots * size)
        memory = mmap.mmap(self.descriptor, self.num_slots * size)
        self.slots = np.frombuffer(memory, self.dtype).reshape((self.num_slots, *self.shape))
        self.free: deque[int] = deque(range(self.num_slots))
        self.is_used = False
        self.dropped = 0


class FrameSender:
    """This process's end. Each stream has one thread that fills it; streams may have several.

    Attributes:
        is_open: whether somebody still records.
    """

    def __init__(self, connection: socket.socket) -> None:
        """Takes over a socket to the recording process."""
        connection.setblocking(False)
        self._connection = connection
        self._streams: dict[str, _Stream] = {}
        self._in_order: list[_Stream] = []
        self._lock = threading.Lock()
        self.is_open = True

    def add_stream(self, name: str, shape: Sequence[int], dtype: Any) -> None:
        """Adds a sensor; before its first picture."""
        with self._lock:
            stream = _Stream(len(self._in_order), shape, dtype)
            stream.slots[...] = 0  # the pages exist before the robot moves
            self._in_order.append(stream)
            self._streams[name] = stream
            facts = {
                "stream": stream.number,
                "name": name,
                "shape": list(stream.shape),
                "dtype": stream.dtype.str,
                "slots": stream.num_slots,
            }
            self._send("stream", facts, stream.descriptor)
            os.close(stream.descriptor)

    def missing(self) -> list[str]:
        """Returns the streams of which nothing has been handed over yet."""
        return [name for name, stream in self._streams.items() if not stream.is_used]

    def put(self, name: str, values: np.ndarray, time_ns: int, is_waiting: bool = False) -> bool:
        """Hands over a picture; copies it.

        Args:
            name: of the stream.
            values: of the stream's shape and dtype.
            time_ns: when it was captured.
            is_waiting: whether to wait for a free slot instead of dropping it.

        Returns:
            Whether it was handed over.
        """
        stream = self._streams[name]
        while self.is_open:
            with self._lock:
                self._take_back()
                slot = stream.free.popleft() if stream.free else None
            if slot is not None:
                break
            if not is_waiting:
                stream.dropped += 1
                return False
            self._wait(select.POLLIN)
        else:
            return False
        stream.slots[slot] = values
        facts = {"stream": stream.number, "slot": slot, "time_ns": int(time_ns)}
        facts["dropped"] = stream.dropped
        while self.is_open:
            if self._send("frame", facts):
                stream.is_used = True
                return True
            if not is_waiting:
                break
            self._wait(select.POLLOUT)
        with self._lock:
            stream.free.append(slot)
        stream.dropped += 1
        return False

    def close(self) -> None:
        """Ends the recording of what this process delivers."""
        self.is_open = False
        self._connection.close()

    def _send(self, kind: str, facts: dict[str, Any], descriptor: Any = None) -> bool:
        data = json.dumps(dict(facts, kind=kind)).encode() + b"\n"
        rights: list[Any] = []
        if descriptor is not None:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        try:
            self._connection.sendmsg([data], rights, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError:
            self.is_open = False
            return False
        return True

    def _wait(self, event: int) -> None:
        waiting = select.poll()  # select() knows no descriptor above 1023
        waiting.register(self._connection, event)
        waiting.poll(1e3 * WAIT_S)

    def _take_back(self) -> None:
        """Takes in the slots that are free again."""
        while self.is_open:
            try:
                data = self._connection.recv(MAX_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.is_open = False
                return
            for number, slot in json.loads(data.split(b"\n", 1)[0].decode())["slots"]:
                self._in_order[number].free.append(slot)
