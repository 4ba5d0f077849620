"""The networks, in plain PyTorch (needs the extra `flux-core[torch]`)."""

from .conv_backbone import ConvBackbone
from .gemma import ConditionGemmaModel
from .layers import LinearProjector
from .pi0 import PI0FlowMatching, PrefixCache, without_effect
from .pi05 import PI05FlowMatching
from .sampling import (
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
from .siglip import SigLIPVisionConfig, SigLIPViTBackbone

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
    "padding_to_zero",
    "sample_actions",
    "sample_time",
    "without_effect",
]
