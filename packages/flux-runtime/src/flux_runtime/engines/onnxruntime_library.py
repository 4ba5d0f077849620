"""Finds the shared library inside the installed onnxruntime, which the C++ core loads.

The folder is found without importing onnxruntime: the core loads its own instance, so Python's,
with its threads and its start-up time, is not needed.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from flux_core.errors import MissingDependencyError

_INSTALL = "Install it with: pip install 'flux-runtime[cpu]', or [gpu] for an NVIDIA card."
_PATTERNS = ("libonnxruntime.so*", "libonnxruntime*.dylib")


def find_library() -> Path:
    """Returns the path of libonnxruntime.

    Raises:
        MissingDependencyError: onnxruntime is not installed, or does not contain the library.
    """
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(f"onnxruntime: not installed. {_INSTALL}")
    folders = [Path(location) / "capi" for location in spec.submodule_search_locations]
    found = [
        path
        for folder in folders
        for pattern in _PATTERNS
        for path in folder.glob(pattern)
        if "_providers_" not in path.name
    ]
    if not found:
        raise MissingDependencyError(
            f"{folders[0]}: expected libonnxruntime, which onnxruntime contains from version 1.20 "
            f"on, got none. {_INSTALL}"
        )
    return max(found, key=_version)


def _version(path: Path) -> tuple[int, ...]:
    """Returns the numbers in a library's file name."""
    return tuple(int(number) for number in re.findall(r"\d+", path.name))
