"""This machine's NVIDIA card and the libraries that ONNX Runtime's providers need to use it.

The libraries come from pip packages, whose folders the dynamic loader does not search. They are
therefore loaded here by path before the provider requests them by name. The loader finds libraries
that are installed system-wide by itself.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_core.errors import MissingDependencyError

CUDA_LIBRARIES = ("cudart", "nvrtc", "cublasLt", "cublas", "curand", "cufft", "cudnn")
TENSORRT_LIBRARIES = ("nvinfer", "nvonnxparser")
_DRIVER = "libcuda.so.1"
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_MEMORY_CLOCK_RATE, _MEMORY_BUS_WIDTH = 36, 37
"""CUdevice_attribute numbers. Clock rate and bus width are in kHz and bits; memory transfers twice
per clock cycle."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """The first NVIDIA card's name, as its driver reports it, and the version of the driver."""

    name: str
    driver: str


def has_card(load: Callable[[str], Any] = ctypes.CDLL) -> bool:
    """Whether NVIDIA's driver has a card for this process.

    The driver is asked, because device files differ: WSL2 and Orin have no /dev/nvidia0, and a
    container may have one that it cannot use. The driver respects CUDA_VISIBLE_DEVICES.
    """
    try:
        driver = load(_DRIVER)
    except OSError:
        return False
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return False
    return count.value > 0


def read_card(load: Callable[[str], Any] = ctypes.CDLL, root: Path = Path("/")) -> Card:
    """Asks the driver, which numbers the cards as the engines do.

    Raises:
        MissingDependencyError: there is no driver, or it does not answer.
    """
    driver, device, name = _load_driver(load), ctypes.c_int(), ctypes.create_string_buffer(256)
    _require_success("cuDeviceGet", driver.cuDeviceGet(ctypes.byref(device), 0))
    done = driver.cuDeviceGetName(name, ctypes.c_int(len(name)), device)
    _require_success("cuDeviceGetName", done)
    return Card(name=name.value.decode(), driver=_driver_version(driver, root))


def _driver_version(driver: Any, root: Path) -> str:
    """Returns e.g. '580.65.06', or the newest CUDA version it supports if that is unknown."""
    file = root / "proc" / "driver" / "nvidia" / "version"
    if file.is_file() and (found := re.search(r"\d+\.\d+(\.\d+)?", file.read_text())):
        return found[0]
    number = ctypes.c_int()
    _require_success("cuDriverGetVersion", driver.cuDriverGetVersion(ctypes.byref(number)))
    return f"CUDA {number.value // 1000}.{number.value % 1000 // 10}"


def memory_bytes_per_s(load: Callable[[str], Any] = ctypes.CDLL) -> float:
    """Returns the first card's memory bandwidth, from the clock rate and bus width in its driver.

    Raises:
        MissingDependencyError: the driver does not report them.
    """
    clock_khz, width_bits = _attributes(load, _MEMORY_CLOCK_RATE, _MEMORY_BUS_WIDTH)
    return 2.0 * clock_khz * 1e3 * width_bits / 8


def compute_capability(load: Callable[[str], Any] = ctypes.CDLL) -> tuple[int, int]:
    """Returns the first card's compute capability, such as (9, 0).

    Raises:
        MissingDependencyError: the driver does not report it.
    """
    major, minor = _attributes(load, _CAPABILITY_MAJOR, _CAPABILITY_MINOR)
    return major, minor


def _attributes(load: Callable[[str], Any], *numbers: int) -> list[int]:
    driver = _load_driver(load)
    values: list[int] = []
    for number in numbers:
        value = ctypes.c_int()
        done = driver.cuDeviceGetAttribute(ctypes.byref(value), number, 0)
        _require_success("cuDeviceGetAttribute", done)
        values.append(value.value)
    return values


def _load_driver(load: Callable[[str], Any]) -> Any:
    try:
        driver = load(_DRIVER)
    except OSError as error:
        raise MissingDependencyError(
            f"{_DRIVER}: cannot be loaded ({error}). Install NVIDIA's driver."
        ) from error
    _require_success("cuInit", driver.cuInit(0))
    return driver


def _require_success(function: str, code: int) -> None:
    if code:
        raise MissingDependencyError(
            f"{_DRIVER}: {function}: expected 0, got {code}. Reinstall NVIDIA's driver."
        )


def pip_folders(packages: Iterable[str] = ("nvidia", "tensorrt_libs")) -> list[Path]:
    """Returns the folders of shared libraries in NVIDIA's installed pip packages."""
    folders: list[Path] = []
    for package in packages:
        spec = importlib.util.find_spec(package)
        for location in (spec.submodule_search_locations or []) if spec else []:
            root = Path(location)
            folders += [root, *sorted(path for path in root.glob("*/lib") if path.is_dir())]
    return folders


def find_libraries(names: Iterable[str], folders: Iterable[Path]) -> list[Path]:
    """Returns the files lib<name>.so.<version> in `folders`, in the order of `names`.

    Returns all versions, because another package may have installed one that the provider does not
    use.
    """
    places = list(folders)
    found = [sorted(path for place in places for path in place.glob(f"lib{name}.so.*"))
             for name in names]  # fmt: skip
    return [path for paths in found for path in paths]


def preload(names: Iterable[str], load: Callable[[str], object] = ctypes.CDLL) -> list[Path]:
    """Loads and returns those of the libraries that pip has installed."""
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
    """Returns the version of the TensorRT 10 that the provider will use, e.g. '10.16.1'.

    Raises:
        MissingDependencyError: TensorRT 10 is not installed.
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
