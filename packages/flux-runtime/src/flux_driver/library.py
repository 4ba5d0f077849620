"""The C library of the shared memory: where it is, and its functions and structures."""

from __future__ import annotations

import ctypes
import os
import sys
from ctypes import (
    POINTER,
    Structure,
    c_char_p,
    c_double,
    c_float,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_uint8,
    c_uint32,
    c_uint64,
    c_void_p,
)

ABI = 2
LIBRARY = "libflux_driver.so"


class DriverMemoryError(Exception):
    """The memory or its library cannot be used, or was used wrongly: one line, what to do."""


class LayoutStruct(Structure):
    """FluxDriverLayout."""

    _fields_ = [
        ("action_dim", c_uint32),
        ("state_dim", c_uint32),
        ("num_cameras", c_uint32),
        ("commands_are_differences", c_uint32),
        ("period_ns", c_int64),
    ]


class CommandStruct(Structure):
    """FluxDriverCommand."""

    _fields_ = [
        ("sequence", c_uint64),
        ("session", c_uint64),
        ("tick_ns", c_int64),
        ("observed_ns", c_int64),
        ("sent_ns", c_int64),
        ("flags", c_uint32),
        ("joint", c_int32),
        ("step", c_double),
        ("max_step", c_double),
    ]


class CountersStruct(Structure):
    """FluxDriverCounters."""

    _fields_ = [
        ("dropped_old", c_uint64),
        ("refused_steps", c_uint64),
        ("refused_not_finite", c_uint64),
        ("refused_sessions", c_uint64),
        ("overwritten", c_uint64),
    ]


# name -> (result, arguments), as in flux_driver.h.
_FUNCTIONS = {
    "now_ns": (c_int64, []),
    "open": (c_void_p, [c_int, c_char_p, c_size_t]),
    "close": (None, [c_void_p]),
    "layout": (None, [c_void_p, POINTER(LayoutStruct)]),
    "camera": (c_int, [c_void_p, c_uint32, POINTER(c_uint32), POINTER(c_uint32)]),
    "publish_state": (c_int, [c_void_p, POINTER(c_float), c_uint32, c_int64]),
    "set_speed_scaling": (c_int, [c_void_p, c_double]),
    "publish_frame": (
        c_int,
        [c_void_p, c_uint32, POINTER(c_uint8), c_uint32, c_uint32, c_int64],
    ),
    "begin": (c_int, [c_void_p, c_uint64]),
    "end": (None, [c_void_p]),
    "wait_command": (c_int, [c_void_p, POINTER(c_float), POINTER(CommandStruct), c_int64]),
    "acknowledge": (None, [c_void_p, c_uint64, c_uint64]),
    "beat": (None, [c_void_p]),
    "watch": (c_int, [c_void_p, POINTER(c_uint32)]),
    "set_phase": (c_int, [c_void_p, c_uint32]),
    "set_progress": (None, [c_void_p, c_uint32]),
    "counters": (None, [c_void_p, POINTER(CountersStruct)]),
}


def library_path() -> str:
    """Returns the library's absolute path.

    It lies in one of the package's folders: in a wheel in the only one, in an editable install in
    the one that pip made rather than in the sources. A process that loads this package from its
    sources, without that install, needs the path from the process that starts it.

    Raises:
        DriverMemoryError: none of the package's folders has the library.
    """
    package = sys.modules[__name__.rpartition(".")[0]]
    folders = [os.path.abspath(folder) for folder in package.__path__]
    for folder in folders:
        path = os.path.join(folder, LIBRARY)
        if os.path.isfile(path):
            return path
    raise DriverMemoryError(
        "{}: expected in {}, not found. Install flux-runtime again, or pass the library's "
        "path".format(LIBRARY, " or ".join(folders))
    )


def load_library(path: str) -> ctypes.CDLL:
    """Returns the library at `path` with its functions' types declared. Calls release the GIL.

    Raises:
        DriverMemoryError: it cannot be loaded, or is of another version.
    """
    try:
        library = ctypes.CDLL(path)
        abi = int(library.flux_driver_abi())
        if abi != ABI:
            raise DriverMemoryError(
                f"{path}: expected interface version {ABI}, got {abi}. Use the flux_driver and "
                "the library of one flux-runtime"
            )
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, "flux_driver_" + name)
            function.restype = result
            function.argtypes = arguments
    except (OSError, AttributeError) as error:
        raise DriverMemoryError(f"{path}: cannot be loaded: {error}") from error
    return library
