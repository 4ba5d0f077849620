"""The networks, in plain PyTorch (needs the extra `flux-core[torch]`).

`flow/` says what a network is; each network is a room of its own. What follows is for all of them.
"""

from .flow.facts import network_facts
from .flow.policy import FlowPolicy, PrefixCache
from .flow.sampling import (
    FlowDraws,
    FlowLoss,
    draw_flow,
    flow_errors,
    flow_mask,
    flow_matching_loss,
    padding_to_zero,
    sample_actions,
)
from .flow.smoothing import smoothed_velocity, smoother
from .layers.basic import LinearProjector
from .layers.conv_backbone import ConvBackbone
from .layers.siglip import SigLIPVisionConfig, SigLIPViTBackbone

__all__ = [
    "ConvBackbone",
    "FlowDraws",
    "FlowLoss",
    "FlowPolicy",
    "LinearProjector",
    "PrefixCache",
    "SigLIPViTBackbone",
    "SigLIPVisionConfig",
    "draw_flow",
    "flow_errors",
    "flow_mask",
    "flow_matching_loss",
    "network_facts",
    "padding_to_zero",
    "sample_actions",
    "smoothed_velocity",
    "smoother",
]
