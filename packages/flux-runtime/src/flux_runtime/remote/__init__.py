"""The robot's side of remote inference: a policy on another computer, behind the same checks and
the same control loop as one on this computer.

The server is a stranger: what it says is bounded and checked like a bundle's files, and what it
answers passes the robot's own safety filter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_core.lazy import lazy_exports

if TYPE_CHECKING:
    from .client import PolicyClient as PolicyClient
    from .errors import ServerError as ServerError
    from .opening import PolicyServer as PolicyServer
    from .opening import policy_server as policy_server
    from .source import RemoteSource as RemoteSource

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "client": ("PolicyClient",),
        "errors": ("ServerError",),
        "opening": ("PolicyServer", "policy_server"),
        "source": ("RemoteSource",),
    },
)
