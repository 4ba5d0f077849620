"""Engines: the libraries that compute a bundle's graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_core.lazy import lazy_exports

if TYPE_CHECKING:
    from .core import load_core as load_core
    from .golden_replay import replay_golden as replay_golden
    from .graph_inputs import user_inputs as user_inputs
    from .names import AUTO as AUTO
    from .names import ENGINES as ENGINES
    from .names import EngineName as EngineName
    from .opening import engine_tolerance as engine_tolerance
    from .opening import open_flow_policy as open_flow_policy
    from .status import choose_engine as choose_engine
    from .status import engine_status as engine_status

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "core": ("load_core",),
        "golden_replay": ("replay_golden",),
        "graph_inputs": ("user_inputs",),
        "names": ("AUTO", "ENGINES", "EngineName"),
        "opening": ("engine_tolerance", "open_flow_policy"),
        "status": ("choose_engine", "engine_status"),
    },
)
