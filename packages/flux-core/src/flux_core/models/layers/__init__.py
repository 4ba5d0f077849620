"""The parts of the networks: projectors, norms, attention, image encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import lazy_exports

if TYPE_CHECKING:
    from .basic import Float32Norm as Float32Norm
    from .basic import LinearProjector as LinearProjector
    from .conv_backbone import ConvBackbone as ConvBackbone
    from .siglip import SigLIPVisionConfig as SigLIPVisionConfig
    from .siglip import SigLIPViTBackbone as SigLIPViTBackbone
    from .transformers_vision import TransformersVisionBackbone as TransformersVisionBackbone
    from .vision_backbone import VisionBackbone as VisionBackbone

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "basic": ("Float32Norm", "LinearProjector"),
        "conv_backbone": ("ConvBackbone",),
        "siglip": ("SigLIPVisionConfig", "SigLIPViTBackbone"),
        "transformers_vision": ("TransformersVisionBackbone",),
        "vision_backbone": ("VisionBackbone",),
    },
)
