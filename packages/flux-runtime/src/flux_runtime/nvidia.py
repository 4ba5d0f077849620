"""The NVIDIA card of this machine and the libraries that ONNX Runtime's providers need of it.

The libraries come with pip packages whose folders the loader does not search, so they are loaded
here, by path, before the provider asks for them by name. Those of the system are found by the
loader itself.
"""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_core.errors import MissingDependencyError

CUDA_LIBRARIES = ("cudart", "nvrtc", "cublasLt", "cublas", "curand", "cufft", "cudnn")
TENSORRT_LIBRARIES = ("nvinfer", "nvonnxparser")
_TIMEOUT_S = 30.0
_MEMORY_CLOCK_RATE, _MEMORY_BUS_WIDTH = 36, 37
"""CUdevice_attribute of the driver: kHz and bits; memory is written or read twice a cycle."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """The first NVIDIA card, as nvidia-smi names it, and the version of its driver."""

    name: str
    driver: str


def has_card(root: Path = Path("/")) -> bool:
    """Whether this machine has an NVIDIA card with a driver."""
    return any((root / "dev").glob("nvidia[0-9]*"))


def read_card() -> Card:
    """Asks nvidia-smi.

    Raises:
        MissingDependencyError: it is not there or does not answer.
    """
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", "--id=0"]
    try:
        answer = subprocess.run(
            query, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise MissingDependencyError(
            f"nvidia-smi: expected the card's name and driver, got no answer ({error}). Install "
            f"NVIDIA's driver."
        ) from error
    return parse_card(answer.stdout)


def parse_card(line: str) -> Card:
    """Reads `NAME, DRIVER`."""
    name, _, driver = line.strip().rpartition(", ")
    if not name or not driver:
        raise MissingDependencyError(
            f"nvidia-smi: expected 'NAME, DRIVER', got {line.strip()!r}. Reinstall NVIDIA's driver."
        )
    return Card(name=name, driver=driver)


def memory_bytes_per_s(load: Callable[[str], Any] = ctypes.CDLL) -> float:
    """How fast the first card's memory is by its clock and width, which its driver knows.

    Raises:
        MissingDependencyError: the driver does not say.
    """
    try:
        driver = load("libcuda.so.1")
    except OSError as error:
        raise MissingDependencyError(
            f"libcuda.so.1: cannot be loaded ({error}). Install NVIDIA's driver."
        ) from error
    _require_success("cuInit", driver.cuInit(0))
    values: list[int] = []
    for attribute in (_MEMORY_CLOCK_RATE, _MEMORY_BUS_WIDTH):
        value = ctypes.c_int()
        done = driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, 0)
        _require_success("cuDeviceGetAttribute", done)
        values.append(value.value)
    clock_khz, width_bits = values
    return 2.0 * clock_khz * 1e3 * width_bits / 8


def _require_success(function: str, code: int) -> None:
    if code:
        raise MissingDependencyError(
            f"libcuda.so.1: {function} answers {code}, expected 0. Reinstall NVIDIA's driver."
        )


def pip_folders(packages: Iterable[str] = ("nvidia", "tensorrt_libs")) -> list[Path]:
    """The folders of shared libraries in NVIDIA's installed pip packages."""
    folders: list[Path] = []
    for package in packages:
        spec = importlib.util.find_spec(package)
        for location in (spec.submodule_search_locations or []) if spec else []:
            root = Path(location)
            folders += [root, *sorted(path for path in root.glob("*/lib") if path.is_dir())]
    return folders


def find_libraries(names: Iterable[str], folders: Iterable[Path]) -> list[Path]:
    """The files lib<name>.so.<version> among `folders`, in the order of `names`."""
    places = list(folders)
    found = [sorted(path for place in places for path in place.glob(f"lib{name}.so.*"))
             for name in names]  # fmt: skip
    return [paths[0] for paths in found if paths]


def preload(names: Iterable[str], load: Callable[[str], object] = ctypes.CDLL) -> list[Path]:
    """Loads those libraries that pip has installed; returns them."""
    libraries = find_libraries(names, pip_folders())
    for library in libraries:
        try:
            load(str(library))
        except OSError as error:
            raise MissingDependencyError(
                f"{library}: cannot be loaded ({error}). Reinstall its package."
            ) from error
    return libraries


def tensorrt_version() -> str:
    """The version of the TensorRT 10 that the provider is going to use, such as '10.16.1'.

    Raises:
        MissingDependencyError: there is none.
    """
    preload(TENSORRT_LIBRARIES[:1])
    try:
        number = ctypes.CDLL("libnvinfer.so.10").getInferLibVersion()
    except OSError as error:
        raise MissingDependencyError(
            f"libnvinfer.so.10: cannot be loaded ({error}). Install TensorRT 10 with: pip install "
            f"'flux-runtime[tensorrt]'"
        ) from error
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
