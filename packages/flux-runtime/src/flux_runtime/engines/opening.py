"""Opens a bundle's graphs in one of the engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flux_core.bundle import Bundle, Manifest, read_graph_header
from flux_core.errors import BundleError, MissingDependencyError

from .core import load_core
from .names import AUTO, EngineName
from .status import EngineChoice, choose_engine, cubins_of_card
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
no option to turn off; TF32 has a 10-bit mantissa, bfloat16 a 7-bit one. `cuda` needs none: it runs
bundles in bfloat16 only, whose own tolerance is three times PyTorch's error in bfloat16, and the
error of its kernels is about that of PyTorch.
"""

CUDA_OPTIONS = {
    # TF32 has a 10-bit mantissa, which is too coarse to reproduce a float32 golden.
    "use_tf32": "0",
    # Otherwise the arena doubles at each extension: up to twice the weights, on a card that also
    # has to hold the other graph.
    "arena_extend_strategy": "kSameAsRequested",
}
"""The options of ONNX Runtime's CUDA provider, under the names that ONNX Runtime documents."""
MAX_PROTOBUF_BYTES = 2**31 - 1
"""ONNX Runtime hands TensorRT a graph as one protobuf message, with its weights in it."""

__all__ = [
    "CUDA_OPTIONS",
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
    name = choose_engine(engine, bundle.manifest.precision, bundle).name
    core = load_core()
    if name == "cuda":
        return _open_cuda(bundle, core)
    if name == "tensorrt":
        from .tensorrt import open_captured_policy

        return open_captured_policy(bundle)
    graphs = bundle.manifest.graphs
    if name == "onnxruntime-tensorrt":
        _check_graph_bytes(bundle)
    library, options = _settings(bundle, name)
    arguments: dict[str, Any] = {
        "prefix_path": str(bundle.path(graphs["prefix"].file)),
        "denoise_path": str(bundle.path(graphs["denoise"].file)),
        "engine": "openvino" if name == "openvino-bf16" else name,
        "library": library,
        "num_inference_steps": bundle.manifest.num_inference_steps,
        "num_threads": num_threads,
        "options": options,
        "cuda_options": CUDA_OPTIONS if name == "onnxruntime-tensorrt" else {},
    }
    if name == "openvino-bf16":
        require_survival(name, arguments)
    try:
        return core.FlowPolicy(**arguments)
    except core.EngineUnavailable as error:
        raise _unusable(name, error) from error
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise BundleError(
            f"{bundle.directory}: the engine rejects the graphs ({name}: {reason}). Export the "
            f"bundle again, or use another engine."
        ) from error


def _open_cuda(bundle: Bundle, core: Any) -> _core.Policy:
    """Puts a bundle on the card; the card, its memory or the kernels are at fault if that fails."""
    from ..cuda.player import open_cuda_policy

    try:
        return open_cuda_policy(bundle, cubins_of_card(), core)
    except (RuntimeError, ValueError) as error:
        raise _unusable("cuda", error) from error


def _unusable(name: EngineName, error: Exception) -> MissingDependencyError:
    reason = " ".join(str(error).split())
    return MissingDependencyError(
        f"engine {name}: cannot be used on this machine ({reason}). See 'flux-runtime doctor', or "
        f"use another engine."
    )


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
        return library, CUDA_OPTIONS
    if name == "onnxruntime-tensorrt":
        nvidia.preload((*nvidia.CUDA_LIBRARIES, *nvidia.TENSORRT_LIBRARIES))
        return library, tensorrt_options(bundle)
    return library, {}


def _check_graph_bytes(bundle: Bundle) -> None:
    """Refuses graphs that ONNX Runtime could not hand to TensorRT, before anything is loaded.

    Raises:
        BundleError: a graph with its weights is larger than a protobuf message may be.
    """
    for graph in bundle.manifest.graphs.values():
        file = bundle.path(graph.file)
        weights = read_graph_header(file, graph.file).external
        num_bytes = file.stat().st_size + sum(tensor.length for tensor in weights)
        if num_bytes > MAX_PROTOBUF_BYTES:
            raise BundleError(
                f"{file}: engine onnxruntime-tensorrt: expected at most {MAX_PROTOBUF_BYTES} bytes "
                f"with the weights, which ONNX Runtime passes to TensorRT as one protobuf message, "
                f"got {num_bytes}. Use the engine tensorrt or onnxruntime-cuda."
            )


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
