"""π0 and π0.5: the networks, their sizes, and sampling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import lazy_exports

if TYPE_CHECKING:
    from .gemma import ConditionGemmaModel as ConditionGemmaModel
    from .pi0 import PI0FlowMatching as PI0FlowMatching
    from .pi0 import PrefixCache as PrefixCache
    from .pi05 import PI05FlowMatching as PI05FlowMatching
    from .sampling import sample_actions as sample_actions
    from .sizes import Kind as Kind
    from .sizes import Size as Size
    from .sizes import pi0_model as pi0_model
    from .sizes import pi05_model as pi05_model
    from .sizes import sized_model as sized_model

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "gemma": ("ConditionGemmaModel",),
        "pi0": ("PI0FlowMatching", "PrefixCache"),
        "pi05": ("PI05FlowMatching",),
        "sampling": ("sample_actions",),
        "sizes": ("Kind", "Size", "pi05_model", "pi0_model", "sized_model"),
    },
)
