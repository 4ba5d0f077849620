"""The compiled C++ core."""

from __future__ import annotations

from types import ModuleType

from flux_core.errors import MissingDependencyError


def load_core() -> ModuleType:
    """Returns the compiled module `flux_runtime._core`."""
    try:
        from .. import _core
    except ImportError as error:
        raise MissingDependencyError(
            f"flux_runtime._core: the C++ core cannot be loaded ({error}). Install flux-runtime "
            f"with pip, which compiles it."
        ) from error
    return _core
