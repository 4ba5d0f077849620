"""A library that stands in for NVIDIA's driver, and kernels for it that are Python functions.

`cpp/tests/fake_card.cpp` is compiled on its own. Device memory is host memory, so a test can look
into it; every call is in a log.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

SOURCE = Path(__file__).resolve().parents[3] / "cpp" / "tests" / "fake_card.cpp"
ARCH = "sm_90a"
SHARED_LIMIT = 232_448
_RUN = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_uint), ctypes.POINTER(ctypes.c_ubyte))

Kernel = Callable[[tuple[int, int, int], bytes], None]


def compile_fake_card(folder: Path) -> Path:
    """Compiles the library; skips if there is no compiler."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    library = folder / "libfake_card.so"
    options = ["-std=c++20", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", "-o", str(library)]
    subprocess.run([compiler, *options, str(SOURCE)], check=True)
    return library


@dataclass(frozen=True)
class KernelLaunch:
    """A launch in the log."""

    symbol: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared_bytes: int
    is_captured: bool
    parameters: bytes


class FakeCard:
    """The controls of the library."""

    def __init__(self, library: Path) -> None:
        self.library = str(library)
        self._c = ctypes.CDLL(self.library)
        self._c.fake_log.restype = ctypes.c_char_p
        self._kept: list[Any] = []
        self.reset()

    def reset(
        self,
        capability: tuple[int, int] = (9, 0),
        *,
        shared_limit: int = SHARED_LIMIT,
        total: int = 1 << 32,
        free: int = 1 << 32,
    ) -> None:
        """Puts another card into the computer."""
        sizes = (ctypes.c_size_t(size) for size in (shared_limit, total, free))
        self._c.fake_reset(*capability, *sizes)

    def kernel(self, symbol: str, run: Kernel, parameter_bytes: int) -> None:
        """Says what launches of `symbol` do with a grid and a block of parameters."""

        def call(grid: Any, parameters: Any) -> None:
            x, y, z = grid[:3]
            run((x, y, z), bytes(parameters[:parameter_bytes]))

        function = _RUN(call)
        self._kept.append(function)
        self._c.fake_kernel(symbol.encode(), function)

    def refuse(self, call: str, code: int, successes: int = 0) -> None:
        """Lets a later call fail once."""
        self._c.fake_refuse(call.encode(), successes, code)

    def live(self, kind: str = "") -> int:
        """How much was made and not released."""
        return self._c.fake_live(kind.encode())

    def calls(self, name: str = "") -> list[list[str]]:
        """The words of each call in the log whose name begins with `name`."""
        log = self._c.fake_log().decode()
        return [line.split() for line in log.splitlines() if line.startswith(name)]

    def launches(self) -> list[KernelLaunch]:
        """All launches in the log."""
        return [
            KernelLaunch(
                symbol=symbol,
                grid=tuple(map(int, grid.split(","))),
                block=tuple(map(int, block.split(","))),
                shared_bytes=int(shared),
                is_captured=when == "captured",
                parameters=bytes.fromhex(parameters),
            )
            for _, symbol, grid, block, shared, when, parameters in self.calls("cuLaunchKernel")
        ]

    @property
    def memory(self) -> tuple[int, int]:
        """Address and size of the card's memory, which is allocated at once."""
        ((_, size, address),) = self.calls("cuMemAlloc_v2")
        return int(address), int(size)


def array_at(address: int, dtype: Any, *shape: int) -> NDArray[Any]:
    """Returns the memory at an address of the fake card."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = (ctypes.c_ubyte * size).from_address(address)
    return np.frombuffer(raw, dtype).reshape(shape)
