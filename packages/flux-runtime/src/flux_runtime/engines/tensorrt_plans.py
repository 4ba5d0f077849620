"""Compiles a bundle's graphs to TensorRT plans, once per card, and caches them beside the bundle.

`trt` is the package `tensorrt`, or another one with the same interface.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console

from flux_core.bundle import Bundle, GraphSignature
from flux_core.errors import BundleError, MissingDependencyError

from . import nvidia
from .cache import content_digest, engine_cache_key, make_engine_cache

MAJOR_VERSION = 10

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}
"""TensorRT's name of a type -> numpy's."""


def import_tensorrt() -> ModuleType:
    """Imports the package `tensorrt`.

    Raises:
        MissingDependencyError: it is not installed, or it cannot be loaded.
    """
    nvidia.preload(nvidia.CUDA_LIBRARIES)
    try:
        import tensorrt  # type: ignore[import-not-found]
    except ImportError as error:
        raise MissingDependencyError(
            f"tensorrt: cannot be imported ({error}). Install it with: pip install "
            f"'flux-runtime[tensorrt]'"
        ) from error
    if not tensorrt.__version__.startswith(f"{MAJOR_VERSION}."):
        raise MissingDependencyError(
            f"tensorrt: expected version {MAJOR_VERSION}, got {tensorrt.__version__}. Install it "
            f"with: pip install 'flux-runtime[tensorrt]'"
        )
    return tensorrt


def started(kind: Any, *arguments: Any) -> Any:
    """Returns `kind(*arguments)`, where `kind` is TensorRT's builder or runtime, which starts CUDA.

    Raises:
        MissingDependencyError: CUDA does not start.
    """
    try:
        return kind(*arguments)
    except TypeError as error:  # raised by TensorRT's binding for a null pointer
        reason = " ".join(str(error).split())
        raise MissingDependencyError(
            f"tensorrt: does not start on this card ({reason}). See nvidia-smi."
        ) from error


def open_plans(bundle: Bundle, trt: Any, card: nvidia.Card) -> dict[str, bytes]:
    """Returns both graphs' plans for this card, from the cache if nothing has changed.

    Raises:
        BundleError: TensorRT rejects a graph, or the cache cannot be written.
    """
    key = engine_cache_key(
        gpu=card.name,
        driver=card.driver,
        tensorrt=f"{trt.__version__} native",
        precision=bundle.manifest.precision,
        content=content_digest(bundle),
    )
    folder = make_engine_cache(bundle, key)
    plans: dict[str, bytes] = {}
    for name, signature in bundle.manifest.graphs.items():
        file = folder / f"{Path(signature.file).stem}.plan"
        if not file.is_file():
            with Console(stderr=True).status(
                f"building {signature.file} with TensorRT (minutes, only once)"
            ):
                _write(file, build_plan(bundle.path(signature.file), signature, trt))
        plans[name] = file.read_bytes()
    return plans


def _write(file: Path, plan: bytes) -> None:
    unfinished = file.with_suffix(f".partial-{os.getpid()}")
    try:
        unfinished.write_bytes(plan)
        unfinished.replace(file)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise BundleError(
            f"{file}: cannot be written ({error.strerror}). Free some disk space."
        ) from error


def build_plan(graph: Path, signature: GraphSignature, trt: Any, setup: Any = None) -> bytes:
    """Compiles one graph; every tensor keeps the type that it has in the graph.

    Args:
        graph: the ONNX file, with its weights in the same folder.
        signature: its inputs and outputs according to the manifest.
        trt: the package `tensorrt`.
        setup: called with the builder's config, e.g. to build for another card.

    Raises:
        BundleError: TensorRT rejects the graph, or finds other inputs or outputs than the manifest.
    """
    logger = _logger(trt)
    builder = started(trt.Builder, logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        reasons = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise _refusal(graph, "cannot be read", reasons or logger.errors)
    _check_signature(graph, signature, network)
    config = builder.create_builder_config()
    # TF32 has a 10-bit mantissa, which is too coarse to reproduce a float32 golden.
    config.clear_flag(trt.BuilderFlag.TF32)
    if setup is not None:
        setup(config)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _refusal(graph, "cannot be built", logger.errors)
    return bytes(plan)


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):
        """Keeps error messages and drops all others."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            """Called by TensorRT."""
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Logger()


def _check_signature(graph: Path, signature: GraphSignature, network: Any) -> None:
    found = {
        tensor.name: (DTYPES.get(tensor.dtype.name, tensor.dtype.name), tuple(tensor.shape))
        for tensor in (
            *(network.get_input(i) for i in range(network.num_inputs)),
            *(network.get_output(i) for i in range(network.num_outputs)),
        )
    }
    for tensor in (*signature.inputs, *signature.outputs):
        expected = (tensor.dtype, tuple(tensor.shape))
        if found.get(tensor.name) != expected:
            raise _refusal(graph, f"{tensor.name}: expected {expected}", [f"{found}"])


def _refusal(graph: Path, what: str, reasons: list[str]) -> BundleError:
    reason = " ".join("; ".join(reasons).split())[:500]
    return BundleError(
        f"{graph}: {what} by TensorRT ({reason}). Export the bundle again in another precision, or "
        f"use another engine."
    )
