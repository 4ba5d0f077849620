"""π0 and π0.5: the networks, their sizes, and the names in their checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import lazy_exports

if TYPE_CHECKING:
    from .checkpoints import from_ours as from_ours
    from .checkpoints import our_names as our_names
    from .gemma import ConditionGemmaModel as ConditionGemmaModel
    from .pi0 import PI0FlowMatching as PI0FlowMatching
    from .pi05 import PI05FlowMatching as PI05FlowMatching
    from .sizes import pi0_model as pi0_model
    from .sizes import pi05_model as pi05_model
    from .sizes import sized_model as sized_model

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "checkpoints": ("from_ours", "our_names"),
        "gemma": ("ConditionGemmaModel",),
        "pi0": ("PI0FlowMatching",),
        "pi05": ("PI05FlowMatching",),
        "sizes": ("pi05_model", "pi0_model", "sized_model"),
    },
)
