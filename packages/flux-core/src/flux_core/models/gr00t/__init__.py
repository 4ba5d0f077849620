"""GR00T-N1.5, as one network of the base class that all policies have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import lazy_exports

if TYPE_CHECKING:
    from .gr00t import GR00TFlowMatching as GR00TFlowMatching
    from .image_tokens import ImagePlaces as ImagePlaces
    from .qwen import Qwen3Backbone as Qwen3Backbone
    from .sizes import gr00t_model as gr00t_model

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "gr00t": ("GR00TFlowMatching",),
        "image_tokens": ("ImagePlaces",),
        "qwen": ("Qwen3Backbone",),
        "sizes": ("gr00t_model",),
    },
)
