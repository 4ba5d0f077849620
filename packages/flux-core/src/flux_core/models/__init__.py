"""The networks, in plain PyTorch (needs the extra `flux-core[torch]`)."""

from .layers.basic import LinearProjector
from .layers.conv_backbone import ConvBackbone
from .layers.siglip import SigLIPVisionConfig, SigLIPViTBackbone
from .pi.facts import network_facts
from .pi.gemma import ConditionGemmaModel
from .pi.pi0 import PI0FlowMatching, PrefixCache, without_effect
from .pi.pi05 import PI05FlowMatching
from .pi.sampling import (
    FlowDraws,
    FlowLoss,
    draw_flow,
    flow_errors,
    flow_mask,
    flow_matching_loss,
    padding_to_zero,
    sample_actions,
    sample_time,
)
from .pi.smoothing import smoothed_velocity, smoother

__all__ = [
    "ConditionGemmaModel",
    "ConvBackbone",
    "FlowDraws",
    "FlowLoss",
    "LinearProjector",
    "PI05FlowMatching",
    "PI0FlowMatching",
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
    "sample_time",
    "smoothed_velocity",
    "smoother",
    "without_effect",
]
