"""The pictures that a driver host has put into shared memory, by the time of their capture."""

from __future__ import annotations

import mmap
import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .live_episode import Picture
from .packets import MessageSocket, Packet

SAME_NS = 1_000
"""Capture times that differ by less are the same: rows hold them as float64 seconds."""


class Slot:
    """A picture in shared memory, which is given back after the last of its users.

    Attributes:
        pixels: the picture, or another sensor's values.
        time_ns: when it was captured.
    """

    def __init__(self, pixels: NDArray[Any], time_ns: int, free: Callable[[], None]) -> None:
        self.time_ns = time_ns
        self.pixels = pixels
        self._free = free
        self._num_users = 1
        self._lock = threading.Lock()

    def picture(self) -> Picture:
        """Returns the picture for one more user."""
        with self._lock:
            self._num_users += 1
        return Picture(pixels=self.pixels, release=self.release)

    def release(self) -> None:
        """Ends one use."""
        with self._lock:
            self._num_users -= 1
            is_last = self._num_users == 0
        if is_last:
            self._free()


@dataclass(kw_only=True)
class Stream:
    """The pictures of one camera, or the values of one other sensor.

    Attributes:
        name: of the camera.
        pixels: (slots, height, width, channels) or (slots, dim), shared.
        waiting: pictures that no row has been paired with yet, the oldest first.
        current: the picture of the last row.
        dropped: pictures that found no slot, since the start.
    """

    name: str
    pixels: NDArray[Any]
    waiting: deque[Slot]
    current: Slot | None = None
    dropped: int = 0

    def advance(self, time_ns: int) -> bool:
        """Makes the newest picture that was there at a time the current one; returns whether it
        has changed."""
        is_new = False
        while self.waiting and self.waiting[0].time_ns <= time_ns + SAME_NS:
            if self.current is not None:
                self.current.release()
            self.current = self.waiting.popleft()
            is_new = True
        return is_new

    def is_at(self, time_ns: int) -> bool:
        """Whether the current picture was captured at that time."""
        return self.current is not None and abs(self.current.time_ns - time_ns) <= SAME_NS

    def trim(self, keep: int) -> None:
        """Gives the oldest waiting pictures back until no more than `keep` wait."""
        while len(self.waiting) > keep:
            self.waiting.popleft().release()


class Streams:
    """All streams of a driver host."""

    def __init__(self, packets: MessageSocket) -> None:
        self._packets = packets
        self._streams: list[Stream] = []
        self._to_free: list[list[int]] = []
        self._lock = threading.Lock()
        self.is_open = True

    def __getitem__(self, name: str) -> Stream:
        return next(stream for stream in self._streams if stream.name == name)

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._packets.fileno()

    def drain(self) -> None:
        """Takes in what has arrived."""
        while self.is_open:
            try:
                packet = self._packets.receive()
            except BlockingIOError:
                break
            except EOFError:
                self.is_open = False
                break
            self._take(packet)
        self._free_slots()

    def trim(self) -> None:
        """Keeps half of the slots free while there are no rows to pair pictures with."""
        for stream in self._streams:
            stream.trim(len(stream.pixels) // 2)

    def _take(self, packet: Packet) -> None:
        data = packet.data
        if packet.kind == "stream" and packet.descriptor is not None:
            pixels = _mapped(packet.descriptor, data)
            self._streams.append(Stream(name=data["name"], pixels=pixels, waiting=deque()))
        elif packet.kind == "frame":
            stream, place = self._streams[data["stream"]], [data["stream"], data["slot"]]
            stream.dropped = data["dropped"]
            pixels = stream.pixels[data["slot"]]
            slot = Slot(pixels, data["time_ns"], lambda: self._free(place))
            stream.waiting.append(slot)

    def _free(self, place: list[int]) -> None:
        with self._lock:
            self._to_free.append(place)
        self._free_slots()

    def _free_slots(self) -> None:
        with self._lock:
            try:
                if self._to_free and self._packets.send("free", slots=self._to_free):
                    self._to_free = []
            except OSError:
                self._to_free = []  # the host is gone


def _mapped(descriptor: int, data: dict[str, Any]) -> NDArray[Any]:
    """Maps a stream's memory, which stays as long as the array."""
    shape = (data["slots"], *data["shape"])
    dtype = np.dtype(data["dtype"])
    size = int(np.prod(shape)) * dtype.itemsize
    try:
        memory = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
    finally:
        os.close(descriptor)
    return np.frombuffer(memory, dtype).reshape(shape)
