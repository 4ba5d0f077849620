"""Which engines this machine can use, and what each of the others lacks."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from flux_core.errors import MissingDependencyError

from . import nvidia, onnxruntime_library, openvino_library
from .names import AUTO, ENGINES, EngineName

_NO_CARD = "Install the card's driver, or take another engine."
_GPU_PACKAGE = (
    "Install it with: pip uninstall onnxruntime && pip install 'flux-runtime[gpu]' (the two "
    "packages share a folder)"
)
_TENSORRT_PACKAGE = "Install it with: pip install 'flux-runtime[tensorrt]'"


@dataclass(frozen=True, kw_only=True)
class EngineStatus:
    """What an engine needs, as far as it can be seen without opening a graph.

    Attributes:
        name: the engine.
        found: what it would use, or what it lacks.
        fix: what to do about it; empty if it can be used.
    """

    name: EngineName
    found: str
    fix: str = ""

    @property
    def ok(self) -> bool:
        """Whether it lacks nothing."""
        return not self.fix


@dataclass(frozen=True, kw_only=True)
class EngineChoice:
    """An engine and why it was taken."""

    name: EngineName
    reason: str


def engine_status(name: EngineName) -> EngineStatus:
    """Looks for what `name` needs."""
    try:
        if name in ("openvino", "openvino-bf16"):
            return _openvino_status(name)
        if name == "tensorrt":
            return _tensorrt_status()
        library = onnxruntime_library.find_library()
    except MissingDependencyError as error:
        found, _, fix = str(error).partition(". ")
        return EngineStatus(name=name, found=found, fix=fix)
    if name == "onnxruntime":
        return EngineStatus(name=name, found=str(library))
    return _provider_status(name, library.parent)


def _openvino_status(name: EngineName) -> EngineStatus:
    library = openvino_library.find_library()
    if name == "openvino-bf16" and not openvino_library.has_bfloat16(library):
        found = "this processor has no bfloat16 instructions that OpenVINO uses"
        return EngineStatus(name=name, found=found, fix="Take the engine openvino.")
    return EngineStatus(name=name, found=str(library))


def _tensorrt_status() -> EngineStatus:
    if not nvidia.has_card():
        return EngineStatus(name="tensorrt", found="no NVIDIA card with a driver", fix=_NO_CARD)
    package = importlib.util.find_spec("tensorrt")
    if package is None:
        found = "no package tensorrt"
        return EngineStatus(name="tensorrt", found=found, fix=_TENSORRT_PACKAGE)
    return EngineStatus(name="tensorrt", found=str(package.origin))


def _provider_status(name: EngineName, folder: Path) -> EngineStatus:
    """What an NVIDIA card and one of ONNX Runtime's providers are missing."""
    if not nvidia.has_card():
        return EngineStatus(name=name, found="no NVIDIA card with a driver", fix=_NO_CARD)
    kind = name.removeprefix("onnxruntime-")
    provider = folder / f"libonnxruntime_providers_{kind}.so"
    if not provider.is_file():
        return EngineStatus(name=name, found=f"no {provider.name} in {folder}", fix=_GPU_PACKAGE)
    if kind == "tensorrt":
        try:
            nvidia.tensorrt_version()
        except MissingDependencyError as error:
            found = str(error).partition(": ")[0]
            return EngineStatus(name=name, found=f"no {found}", fix=_TENSORRT_PACKAGE)
    return EngineStatus(name=name, found=str(provider))


def choose_engine(wanted: str = AUTO, precision: str = "fp32") -> EngineChoice:
    """Takes the engine asked for; `auto` takes the card where it can be used.

    Args:
        wanted: one of `engine_names.ENGINES`, or `auto`.
        precision: of the bundle; on the processor OpenVINO has bfloat16 and float8, ONNX Runtime
            has not.

    Raises:
        MissingDependencyError: the engine lacks something; nothing else is taken instead.
    """
    if wanted == AUTO:
        # ONNX Runtime cannot round bfloat16 to float8, on no device.
        on_card: EngineName = "tensorrt" if precision == "fp8" else "onnxruntime-cuda"
        status = engine_status(on_card)
        if status.ok:
            return EngineChoice(name=on_card, reason=f"auto: {status.found}")
        if precision in ("bf16", "fp8"):
            require_engine("openvino")
            return EngineChoice(name="openvino", reason=f"auto: {precision}, and {status.found}")
        return EngineChoice(name="onnxruntime", reason=f"auto: {status.found}")
    for name in ENGINES:
        if name == wanted:
            require_engine(name)
            return EngineChoice(name=name, reason="asked for")
    raise MissingDependencyError(
        f"engine {wanted!r}: expected one of {', '.join((AUTO, *ENGINES))}. Correct the name."
    )


def require_engine(name: EngineName) -> None:
    """Refuses an engine that lacks something.

    Raises:
        MissingDependencyError: says what, and what to do.
    """
    status = engine_status(name)
    if not status.ok:
        raise MissingDependencyError(f"engine {name}: {status.found}. {status.fix}")
