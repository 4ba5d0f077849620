"""The messages between a run, the robot's driver host and the recording process.

A message is one packet of a SOCK_SEQPACKET socket: a JSON object, a line feed, and bytes. Both
sockets are inherited.

    run        dataset {robot, fps, state, action, cameras, extras, is_realtime}
               episode {task}    rows {count} + rows_dtype    end {facts, is_kept}    close
    recorder   hello {protocol}    ready {episodes}    refused {reason, is_usage}    failed {reason}
               saved {episode, rows, pictures, repeated, dropped_rows, dropped_pictures}
               lost {reason}    closed

    host       stream {stream, name, shape, dtype, slots} + descriptor of its memory
               frame {stream, slot, time_ns, dropped}
    recorder   free {slots: [[stream, slot], ...]}

A slot of the memory belongs to the host until it sends `frame`, and again after `free`.
"""

from __future__ import annotations

import array
import json
import socket
from dataclasses import dataclass
from typing import Any

import numpy as np

PROTOCOL_VERSION = 1
MAX_BYTES = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Packet:
    """A message that has arrived; the receiver closes its descriptor."""

    kind: str
    data: dict[str, Any]
    payload: bytes
    descriptor: int | None


class MessageSocket:
    """This process's end of a socket."""

    def __init__(self, descriptor: int) -> None:
        """Takes over an inherited descriptor."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=descriptor)
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._socket.fileno()

    def send(self, kind: str, **data: object) -> bool:
        """Sends a message without waiting; returns False if the other side has not kept up.

        Raises:
            OSError: the other side is gone.
        """
        text = json.dumps({"kind": kind, **data}).encode()
        try:
            self._socket.send(text + b"\n", socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        return True

    def receive(self) -> Packet:
        """Returns the next message.

        Raises:
            BlockingIOError: there is none yet.
            EOFError: the other side is gone.
        """
        space = socket.CMSG_SPACE(array.array("i").itemsize)
        try:
            found, ancillary, _, _ = self._socket.recvmsg(MAX_BYTES, space)
        except ConnectionError as error:
            raise EOFError(str(error)) from error
        if not found:
            raise EOFError("the socket is closed")
        descriptor = None
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptor = array.array("i", content)[0]
        text, _, payload = found.partition(b"\n")
        data = json.loads(text)
        return Packet(kind=data.pop("kind"), data=data, payload=payload, descriptor=descriptor)

    def close(self) -> None:
        """Closes this end."""
        self._socket.close()


def rows_dtype(state_dim: int, action_dim: int, num_cameras: int) -> np.dtype[np.void]:
    """Returns the fields of a control step.

    `time_ns` is when the command left; `frames_ns` when the newest picture of each camera had been
    captured at that time, 0 for none.
    """
    return np.dtype(
        [
            ("time_ns", "<i8"),
            ("frames_ns", "<i8", (num_cameras,)),
            ("state", "<f4", (state_dim,)),
            ("action", "<f4", (action_dim,)),
        ]
    )
