"""Where TensorRT's compiled engines are kept: beside the bundle, in one folder per key.

An engine is valid only for the card, driver, TensorRT version, precision and weights that it was
built with. All of them are part of the folder's name, so that a change leads to a new folder and
never to an outdated engine.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from flux_core.bundle import Bundle
from flux_core.errors import BundleError

_DIGITS = 12


def engine_cache_key(*, gpu: str, driver: str, tensorrt: str, precision: str, content: str) -> str:
    """Returns a readable folder name that is different if any argument differs.

    Args:
        gpu: the card's name.
        driver: version of its driver.
        tensorrt: version of TensorRT.
        precision: of the bundle.
        content: identifies the graphs and weights; see `content_digest`.
    """
    parts = (gpu, driver, f"tensorrt {tensorrt}", precision, content[:_DIGITS])
    readable = "_".join(re.sub(r"[^a-z0-9.]+", "-", part.lower()).strip("-") for part in parts)
    exact = hashlib.sha256(repr((gpu, driver, tensorrt, precision, content)).encode()).hexdigest()
    return f"{readable}_{exact[:_DIGITS]}"


def content_digest(bundle: Bundle) -> str:
    """Returns a sha256 over the graphs and weights of a bundle."""
    names = sorted(
        name for name in bundle.manifest.files if name.endswith((".onnx", "safetensors"))
    )
    lines = [f"{name} {bundle.manifest.files[name].sha256}\n" for name in names]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def make_engine_cache(bundle: Bundle, key: str) -> Path:
    """Creates and returns `<bundle>.engines/<key>/`. Never writes to the bundle itself.

    Raises:
        BundleError: the folder cannot be created.
    """
    directory = bundle.directory.resolve()
    folder = directory.with_name(f"{directory.name}.engines") / key
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BundleError(
            f"{folder}: cannot be created for TensorRT's engines ({error.strerror}). Copy the "
            f"bundle to a folder that you can write to."
        ) from error
    return folder
