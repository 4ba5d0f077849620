"""Config, types, transforms, models and the bundle format of flux. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy import lazy_exports

if TYPE_CHECKING:
    from .bundle import Bundle as Bundle
    from .errors import FluxError as FluxError
    from .policy_io import PolicyIO as PolicyIO
    from .robots import RobotSpec as RobotSpec
    from .transforms import Pipeline as Pipeline
    from .transforms import Transform as Transform
    from .types import ActionChunk as ActionChunk
    from .types import Observation as Observation

__version__ = "2026.11.0"
__all__ = [
    "ActionChunk",
    "Bundle",
    "FluxError",
    "Observation",
    "Pipeline",
    "PolicyIO",
    "RobotSpec",
    "Transform",
    "__version__",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "bundle": ("Bundle",),
        "errors": ("FluxError",),
        "policy_io": ("PolicyIO",),
        "robots": ("RobotSpec",),
        "transforms": ("Pipeline", "Transform"),
        "types": ("ActionChunk", "Observation"),
    },
)
