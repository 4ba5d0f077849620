"""Finds out which engines this machine can use, and what the others need."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from flux_core.errors import BundleError, MissingDependencyError

from . import nvidia, onnxruntime_library, openvino_library
from .names import AUTO, CARD_ENGINES, ENGINES, EngineName

if TYPE_CHECKING:
    from flux_core.bundle import DescribedBundle

    from ..cuda.cubins import Cubins

_NO_CARD = "Install the card's driver, or use another engine."
_GPU_PACKAGE = (
    "Install it with: pip uninstall onnxruntime && pip install 'flux-runtime[gpu]' (the two "
    "packages share a folder)"
)
_DIGITS = 12
_TENSORRT_PACKAGE = "Install it with: pip install 'flux-runtime[tensorrt]'"


@dataclass(frozen=True, kw_only=True)
class EngineStatus:
    """Whether an engine can be used, as far as that is known without opening a graph.

    Attributes:
        name: the engine.
        found: the library it would use, or what is missing.
        fix: what to do about it; empty if the engine can be used.
    """

    name: EngineName
    found: str
    fix: str = ""

    @property
    def ok(self) -> bool:
        """Whether the engine can be used."""
        return not self.fix


@dataclass(frozen=True, kw_only=True)
class EngineChoice:
    """An engine and the reason for choosing it."""

    name: EngineName
    reason: str


def engine_status(name: EngineName) -> EngineStatus:
    """Checks for everything that the engine `name` needs."""
    try:
        if name in ("openvino", "openvino-bf16"):
            return _openvino_status(name)
        if name == "tensorrt":
            return _tensorrt_status()
        if name == "cuda":
            return _cuda_status()
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
        found = "this CPU has no bfloat16 instructions that OpenVINO can use"
        return EngineStatus(name=name, found=found, fix="Use the engine openvino.")
    return EngineStatus(name=name, found=str(library))


def _tensorrt_status() -> EngineStatus:
    if not nvidia.has_card():
        return EngineStatus(name="tensorrt", found="no NVIDIA card with a driver", fix=_NO_CARD)
    package = importlib.util.find_spec("tensorrt")
    if package is None:
        found = "tensorrt is not installed"
        return EngineStatus(name="tensorrt", found=found, fix=_TENSORRT_PACKAGE)
    return EngineStatus(name="tensorrt", found=str(package.origin))


def _cuda_status() -> EngineStatus:
    if not nvidia.has_card():
        return EngineStatus(name="cuda", found="no NVIDIA card with a driver", fix=_NO_CARD)
    cubins = cubins_of_card()
    folder = cubins.stores[0].folder
    return EngineStatus(name="cuda", found=f"kernels for {cubins.architecture.name} in {folder}")


def cubins_of_card() -> Cubins:
    """Finds the best machine code that the first card runs.

    Raises:
        MissingDependencyError: there is no card or no machine code for it.
    """
    from ..cuda.architectures import candidates
    from ..cuda.cubins import find_cubins

    major, minor = nvidia.compute_capability()
    errors: list[MissingDependencyError] = []
    for architecture in candidates(major, minor):
        try:
            return find_cubins(architecture.name)
        except MissingDependencyError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    raise MissingDependencyError(
        f"no kernels for cards of compute capability {major}.{minor}. Use another engine."
    )


def _provider_status(name: EngineName, folder: Path) -> EngineStatus:
    """Checks for an NVIDIA card and for one of ONNX Runtime's providers."""
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


def choose_engine(
    wanted: str = AUTO, precision: str = "fp32", bundle: DescribedBundle | None = None
) -> EngineChoice:
    """Returns the requested engine; `auto` chooses the NVIDIA card if it can be used.

    Args:
        wanted: one of `names.ENGINES`, or `auto`.
        precision: the bundle's; on the CPU, OpenVINO supports bfloat16 and float8 and ONNX Runtime
            does not.
        bundle: the bundle itself if there is one yet; without it, `auto` never chooses `cuda`,
            which does not run all of them.

    Raises:
        BundleError: the engine does not run this bundle.
        MissingDependencyError: the engine cannot be used; it is never replaced by another one.
    """
    if wanted == AUTO:
        return _choose_for(precision, bundle)
    for name in ENGINES:
        if name == wanted:
            if name == "cuda" and bundle is not None and (why := _cuda_refusal(bundle)):
                raise BundleError(f"engine cuda: {why}. Use another engine.")
            require_engine(name)
            return EngineChoice(name=name, reason="asked for")
    raise MissingDependencyError(
        f"engine: expected one of {', '.join((AUTO, *ENGINES))}, got {wanted!r}. Correct the name."
    )


def _choose_for(precision: str, bundle: DescribedBundle | None) -> EngineChoice:
    """Returns what `auto` means here."""
    why_not = ""
    if bundle is not None and nvidia.has_card():
        status = engine_status("cuda")
        why_not = (
            _cuda_refusal(bundle)
            or _guidance_refusal(bundle)
            or ("" if status.ok else status.found)
        )
        if not why_not:
            return EngineChoice(name="cuda", reason=f"auto: {status.found}")
        why_not = f"; not cuda: {why_not}"
    # ONNX Runtime cannot round bfloat16 to float8 on any device.
    on_card: EngineName = "tensorrt" if precision == "fp8" else "onnxruntime-cuda"
    status = engine_status(on_card)
    if status.ok:
        return EngineChoice(name=on_card, reason=f"auto: {status.found}{why_not}")
    if precision in ("bf16", "fp8"):
        require_engine("openvino")
        reason = f"auto: {precision}, and {status.found}{why_not}"
        return EngineChoice(name="openvino", reason=reason)
    return EngineChoice(name="onnxruntime", reason=f"auto: {status.found}{why_not}")


def _cuda_refusal(bundle: DescribedBundle) -> str:
    from ..cuda.support import refusal

    return refusal(bundle)


def _guidance_refusal(bundle: DescribedBundle) -> str:
    from ..cuda.support import refusal_of_guidance

    return refusal_of_guidance(bundle)


def require_engine(name: EngineName) -> None:
    """Requires that an engine can be used.

    Raises:
        MissingDependencyError: it cannot; the message says why and what to do.
    """
    status = engine_status(name)
    if not status.ok:
        raise MissingDependencyError(f"engine {name}: {status.found}. {status.fix}")


def engine_version(name: str) -> str:
    """Returns what an engine consists of here, such as 'onnxruntime 1.23.2', with the card of an
    engine that runs on one; '' for a run without a network."""
    parts: list[str] = []
    if name.startswith("onnxruntime"):
        parts += _versions("onnxruntime", "onnxruntime-gpu")
    if name.startswith("openvino"):
        parts += _versions("openvino")
    if name.endswith("tensorrt"):
        parts.append(f"tensorrt {nvidia.tensorrt_version()}")
    if name == "cuda":
        cubins = cubins_of_card()
        store = cubins.stores[0]
        kernels = store.kernels_sha256[:_DIGITS]
        parts.append(f"kernels {kernels} for {cubins.architecture.name} by triton {store.triton}")
    if name in CARD_ENGINES:
        card = nvidia.read_card()
        parts.append(f"{card.name} with driver {card.driver}")
    return ", ".join(parts)


def _versions(*distributions: str) -> list[str]:
    found: list[str] = []
    for distribution in distributions:
        try:
            found.append(f"{distribution} {version(distribution)}")
        except PackageNotFoundError:
            continue
    return found
