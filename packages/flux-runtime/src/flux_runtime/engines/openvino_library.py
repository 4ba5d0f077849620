"""Finds the C library inside the installed openvino, which the C++ core loads.

As with ONNX Runtime, the package is found without importing it.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

from flux_core.errors import MissingDependencyError

INSTALL = "Install it with: pip install 'flux-runtime[openvino]'"


def find_library() -> Path:
    """Returns the path of libopenvino_c.

    Raises:
        MissingDependencyError: openvino is not installed, or does not contain the library.
    """
    spec = importlib.util.find_spec("openvino")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(f"openvino: not installed. {INSTALL}")
    folders = [Path(location) / "libs" for location in spec.submodule_search_locations]
    for folder in folders:
        for pattern in ("libopenvino_c.so*", "libopenvino_c.*dylib"):
            if found := sorted(folder.glob(pattern)):
                return found[-1]
    raise MissingDependencyError(f"{folders[0]}: expected libopenvino_c, got none. {INSTALL}")


def has_bfloat16(library: Path) -> bool:
    """Whether OpenVINO computes in bfloat16 on this CPU; on others it falls back to float32."""
    calls = ctypes.CDLL(str(library))
    core, value = ctypes.c_void_p(), ctypes.c_char_p()
    if calls.ov_core_create(ctypes.byref(core)):
        raise MissingDependencyError(f"{library}: OpenVINO does not start. Reinstall it.")
    name = b"OPTIMIZATION_CAPABILITIES"
    failed = calls.ov_core_get_property(core, b"CPU", name, ctypes.byref(value))
    capabilities = b"" if failed or value.value is None else value.value
    calls.ov_free(value)
    calls.ov_core_free(core)
    return b"BF16" in capabilities.split()
