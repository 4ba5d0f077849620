"""What can go wrong with a policy server, for the side that asks it."""

from __future__ import annotations

from typing import Literal

from flux_core.errors import FluxError

Cause = Literal["away", "busy", "refused", "hostile"]
"""away: no connection, or it ended. busy: it may answer the next request. refused: it does not take
this one. hostile: what it sent cannot be used."""


class ServerError(FluxError):
    """A policy server that cannot be used now; one line that begins with its address."""

    def __init__(self, message: str, cause: Cause = "away") -> None:
        super().__init__(message)
        self.cause: Cause = cause
