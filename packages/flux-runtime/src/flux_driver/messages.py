"""The messages between the policy's process and the driver host.

A message is one JSON object in one packet of a SOCK_SEQPACKET socket; `map` carries the descriptor
of the shared memory, `record` that of a socket to a recording process. The host answers every
message that has an `id`.

    host    hello {protocol, python, executable, pid}     described {robot}     refused {reason}
            answer {id, result} or {id, error}            failed {reason}
            event {name, text, count, time_ns}
    policy  connect {id, cameras}    map {id} + descriptor    record {id} + descriptor
            begin {id, session, category}    end {id}    counts {id, session}
            reset {id, seed}    home {id}    close {id}
"""

from __future__ import annotations

import array
import json
import socket
from typing import Any, Dict

PROTOCOL_VERSION = 1
MAX_BYTES = 1 << 17

Message = Dict[str, Any]


class Channel:
    """One end of the socket; messages are sent whole or not at all."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        connection.setblocking(False)

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._connection.fileno()

    def send(self, message: Message, descriptor: int | None = None) -> bool:
        """Sends a message without waiting; returns False if the other side has not kept up.

        Raises:
            OSError: the other side is gone, or the message is larger than `MAX_BYTES`.
        """
        data = json.dumps(message, default=_plain).encode()
        if len(data) > MAX_BYTES:
            raise OSError(f"message {message.get('kind')}: {len(data)} bytes, limit {MAX_BYTES}")
        rights: list[tuple[int, int, Any]] = []
        if descriptor is not None:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        try:
            self._connection.sendmsg([data], rights, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        return True

    def receive(self) -> tuple[Message, int | None]:
        """Returns the next message and the descriptor that came with it.

        Raises:
            BlockingIOError: there is no message.
            EOFError: the other side is gone.
            ValueError: what arrived is not a message.
        """
        space = socket.CMSG_SPACE(array.array("i").itemsize)
        try:
            data, ancillary, _, _ = self._connection.recvmsg(MAX_BYTES, space)
        except ConnectionError as error:
            raise EOFError(str(error)) from error
        if not data:
            raise EOFError("the socket is closed")
        descriptor = None
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptor = array.array("i", content)[0]
        message = json.loads(data.decode())
        if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
            raise ValueError(f"expected a message with a kind, got {data[:60]!r}")
        return message, descriptor

    def close(self) -> None:
        """Closes this end."""
        self._connection.close()


def _plain(value: Any) -> Any:
    """Turns numpy's numbers and arrays into what JSON can hold."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"expected plain data, got {type(value).__name__}")
