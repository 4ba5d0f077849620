"""Where TensorRT's compiled engines are kept: beside the bundle, one folder for each key.

An engine is right for the card, driver, TensorRT, precision and weights that it was built with, and
for nothing else. All of them are in the folder's name, so that a change leads to a new folder and
never to an old engine.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from flux_core.bundle import Bundle
from flux_core.errors import BundleError

_DIGITS = 12


def engine_cache_key(*, gpu: str, driver: str, tensorrt: str, precision: str, content: str) -> str:
    """Returns a folder's name: readable, and another one if any argument differs.

    Args:
        gpu: the card's name.
        driver: version of its driver.
        tensorrt: version of TensorRT.
        precision: of the bundle.
        content: what the graphs and weights are, such as `content_digest`.
    """
    parts = (gpu, driver, f"tensorrt {tensorrt}", precision, content[:_DIGITS])
    readable = "_".join(re.sub(r"[^a-z0-9.]+", "-", part.lower()).strip("-") for part in parts)
    exact = hashlib.sha256(repr((gpu, driver, tensorrt, precision, content)).encode()).hexdigest()
    return f"{readable}_{exact[:_DIGITS]}"


def content_digest(bundle: Bundle) -> str:
    """A sha256 over the graphs and weights of a bundle."""
    names = sorted(
        name for name in bundle.manifest.files if name.endswith((".onnx", "safetensors"))
    )
    lines = [f"{name} {bundle.manifest.files[name].sha256}\n" for name in names]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def make_engine_cache(bundle: Bundle, key: str) -> Path:
    """Returns `<bundle>.engines/<key>/`, which then exists. The bundle itself is never written to.

    Raises:
        BundleError: it cannot be made.
    """
    directory = bundle.directory.resolve()
    folder = directory.with_name(f"{directory.name}.engines") / key
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BundleError(
            f"{folder}: cannot be made for TensorRT's engines ({error.strerror}). Copy the bundle "
            f"to a folder that you may write to."
        ) from error
    return folder
