"""Opens the C++ core and a bundle's graphs in it."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

from flux_core.bundle import Bundle
from flux_core.errors import BundleError, MissingDependencyError

if TYPE_CHECKING:
    from . import _core

ENGINE = "onnxruntime"
DEFAULT_THREADS = 1


def load_core() -> ModuleType:
    """Returns the compiled module `flux_runtime._core`."""
    try:
        from . import _core
    except ImportError as error:
        raise MissingDependencyError(
            f"flux_runtime._core: the C++ core cannot be loaded ({error}). Install flux-runtime "
            f"with pip, which compiles it."
        ) from error
    return _core


def open_flow_policy(bundle: Bundle, *, num_threads: int = DEFAULT_THREADS) -> _core.FlowPolicy:
    """Loads both graphs of a bundle into ONNX Runtime.

    Raises:
        BundleError: ONNX Runtime refuses a graph.
        MissingDependencyError: the C++ core or ONNX Runtime is missing.
    """
    from .onnxruntime_library import find_library

    core = load_core()
    manifest = bundle.manifest
    try:
        return core.FlowPolicy(
            str(bundle.path(manifest.graphs["prefix"].file)),
            str(bundle.path(manifest.graphs["denoise"].file)),
            ort_library=str(find_library()),
            num_inference_steps=manifest.num_inference_steps,
            num_threads=num_threads,
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise BundleError(
            f"{bundle.directory}: the engine refuses the graphs ({reason}). Export it again."
        ) from error
