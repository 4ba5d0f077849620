"""Opens a bundle's graphs in one of the engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flux_core.bundle import Bundle, Manifest
from flux_core.errors import BundleError, MissingDependencyError

from .core import load_core
from .names import AUTO, EngineName
from .status import EngineChoice, choose_engine
from .trial_run import require_survival

if TYPE_CHECKING:
    from .. import _core

DEFAULT_THREADS = 1

_BF16_TOLERANCE = 0.032
ENGINE_TOLERANCE: dict[EngineName, float] = {
    "openvino-bf16": _BF16_TOLERANCE,
    "onnxruntime-tensorrt": _BF16_TOLERANCE / 8,
}
"""Largest allowed error of engines that compute less precisely than the bundle's precision.

Twice the error of PyTorch's own bfloat16: under autocast, the shipped policy's normalised actions
move by 0.0056 to 0.0161 over 24 inputs. TensorRT multiplies float32 as TF32, which ONNX Runtime has
no option to turn off; TF32 has a 10-bit mantissa, bfloat16 a 7-bit one.
"""

__all__ = [
    "DEFAULT_THREADS",
    "ENGINE_TOLERANCE",
    "EngineChoice",
    "choose_engine",
    "engine_tolerance",
    "open_flow_policy",
]


def engine_tolerance(manifest: Manifest, engine: EngineName) -> float:
    """Returns the largest error of normalised actions with which `engine` may drive a robot."""
    return max(manifest.tolerance, ENGINE_TOLERANCE.get(engine, 0.0))


def open_flow_policy(
    bundle: Bundle, *, engine: str = AUTO, num_threads: int = DEFAULT_THREADS
) -> _core.Policy:
    """Loads both graphs of a bundle into an engine.

    Args:
        bundle: an opened bundle.
        engine: one of `names.ENGINES`, or `auto`; see `choose_engine`.
        num_threads: CPU threads for each graph.

    Raises:
        BundleError: the engine rejects a graph.
        MissingDependencyError: the C++ core or something that the engine needs is missing, or the
            engine crashes.
    """
    name = choose_engine(engine, bundle.manifest.precision).name
    core = load_core()
    if name == "tensorrt":
        from .tensorrt import open_captured_policy

        return open_captured_policy(bundle)
    graphs = bundle.manifest.graphs
    library, options = _settings(bundle, name)
    arguments: dict[str, Any] = {
        "prefix_path": str(bundle.path(graphs["prefix"].file)),
        "denoise_path": str(bundle.path(graphs["denoise"].file)),
        "engine": "openvino" if name == "openvino-bf16" else name,
        "library": library,
        "num_inference_steps": bundle.manifest.num_inference_steps,
        "num_threads": num_threads,
        "options": options,
    }
    if name == "openvino-bf16":
        require_survival(name, arguments)
    try:
        return core.FlowPolicy(**arguments)
    except core.EngineUnavailable as error:
        reason = " ".join(str(error).split())
        raise MissingDependencyError(
            f"engine {name}: cannot be used on this machine ({reason}). See 'flux-runtime doctor', "
            f"or use another engine."
        ) from error
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise BundleError(
            f"{bundle.directory}: the engine rejects the graphs ({name}: {reason}). Export the "
            f"bundle again, or use another engine."
        ) from error


def _settings(bundle: Bundle, name: EngineName) -> tuple[str, dict[str, str]]:
    """Returns the engine's library and its options, under the names that its vendor documents."""
    from . import nvidia, onnxruntime_library, openvino_library

    if name in ("openvino", "openvino-bf16"):
        return str(openvino_library.find_library()), {
            "INFERENCE_PRECISION_HINT": "bf16" if name == "openvino-bf16" else "f32",
            # Otherwise activations are rounded to int8 wherever the weights are int8.
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        }
    library = str(onnxruntime_library.find_library())
    if name == "onnxruntime-cuda":
        nvidia.preload(nvidia.CUDA_LIBRARIES)
        # TF32 has a 10-bit mantissa, which is too coarse to reproduce a float32 golden.
        return library, {"use_tf32": "0"}
    if name == "onnxruntime-tensorrt":
        nvidia.preload((*nvidia.CUDA_LIBRARIES, *nvidia.TENSORRT_LIBRARIES))
        return library, tensorrt_options(bundle)
    return library, {}


def tensorrt_options(bundle: Bundle) -> dict[str, str]:
    """Returns the provider's options: engines are cached and use the bundle's precision."""
    from . import nvidia
    from .cache import content_digest, engine_cache_key, make_engine_cache

    card, precision = nvidia.read_card(), bundle.manifest.precision
    key = engine_cache_key(
        gpu=card.name,
        driver=card.driver,
        tensorrt=nvidia.tensorrt_version(),
        precision=precision,
        content=content_digest(bundle),
    )
    folder = str(make_engine_cache(bundle, key))
    # Older providers do not know every option, so only the needed ones are set.
    halves = {"fp16": {"trt_fp16_enable": "1"}, "bf16": {"trt_bf16_enable": "1"}}
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": folder,
        **halves.get(precision, {}),
    }
