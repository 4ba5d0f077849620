"""Config, types, transforms, models and the bundle format of flux. Imports no torch."""

from .errors import FluxError
from .types import ActionChunk, Observation

__version__ = "2026.11.0"
__all__ = ["ActionChunk", "FluxError", "Observation", "__version__"]
