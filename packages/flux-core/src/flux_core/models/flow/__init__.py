"""What every flow-matching policy is, its loss and its Euler loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import lazy_exports

if TYPE_CHECKING:
    from .checkpoints import CheckpointFamily as CheckpointFamily
    from .checkpoints import StoredTensor as StoredTensor
    from .facts import network_facts as network_facts
    from .policy import FlowPolicy as FlowPolicy
    from .policy import PrefixCache as PrefixCache
    from .policy import Size as Size
    from .policy import freeze_parts as freeze_parts
    from .sampling import FlowDraws as FlowDraws
    from .sampling import FlowLoss as FlowLoss
    from .sampling import draw_flow as draw_flow
    from .sampling import flow_errors as flow_errors
    from .sampling import flow_mask as flow_mask
    from .sampling import flow_matching_loss as flow_matching_loss
    from .sampling import padding_to_zero as padding_to_zero
    from .sampling import sample_actions as sample_actions
    from .smoothing import smoothed_velocity as smoothed_velocity
    from .smoothing import smoother as smoother

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "checkpoints": ("CheckpointFamily", "StoredTensor"),
        "facts": ("network_facts",),
        "policy": ("FlowPolicy", "PrefixCache", "Size", "freeze_parts"),
        "sampling": (
            "FlowDraws",
            "FlowLoss",
            "draw_flow",
            "flow_errors",
            "flow_mask",
            "flow_matching_loss",
            "padding_to_zero",
            "sample_actions",
        ),
        "smoothing": ("smoothed_velocity", "smoother"),
    },
)
