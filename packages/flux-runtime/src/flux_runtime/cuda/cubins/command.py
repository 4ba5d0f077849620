"""`flux-runtime build`: compiles the kernels of engine `cuda` for cards that need not be here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_core.bundle import Bundle
from flux_core.errors import UsageError
from flux_core.policy_io import PolicyIO

from ..architectures import Architecture, architecture
from ..pi import PiDescription, StoredTensors, describe_bundle
from ..support import refusal
from .build import Advance, Built, build, triton_version
from .kernel_sources import kernels_sha256
from .shipped import needed, shipped
from .specialisation import Specialisation
from .store import cache_root


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What to build.

    Attributes:
        arch: names of architectures.
        out: where to; None for the user's cache.
        bundle: a bundle whose kernels are compiled too, if its network has sizes of its own.
        accept_versions: as in `Bundle.open`.
        jobs: kernels that are compiled at the same time; None for one per processor.
    """

    arch: Sequence[str]
    out: Path | None = None
    bundle: Path | None = None
    accept_versions: Sequence[str] = ()
    jobs: int | None = None


def build_kernels(options: BuildOptions, advance: Advance) -> dict[str, Any]:
    """Builds, and returns the report.

    Returns:
        `out`, `triton`, `kernels_sha256`, and `architectures`: per name `folder`, `compiled` (how
        many were not there), `bytes`, `cpu_s`, and `kernels` (each with `kernel`, `key`, `file`,
        `registers`, `spill_bytes`, `shared_bytes`, `num_warps`).

    Raises:
        UsageError: an architecture is unknown, or the engine does not run the bundle.
        MissingDependencyError: Triton is not installed.
        FluxError: a kernel cannot be compiled.
    """
    targets = [architecture(name) for name in dict.fromkeys(options.arch)]
    version = triton_version()
    described = options.bundle and describe_for_plans(options.bundle, options.accept_versions)
    out = options.out or cache_root()
    wanted = [(target, _wanted(target, described)) for target in targets]
    built = build(wanted, out, advance, num_processes=options.jobs)
    return {
        "out": str(out),
        "triton": version,
        "kernels_sha256": kernels_sha256(),
        "architectures": {one.store.arch: _report(one) for one in built},
    }


@dataclass(frozen=True, kw_only=True)
class BundleToPlan:
    """A network of sizes of its own, and for how many cameras and prompt tokens it is planned."""

    description: PiDescription
    num_cameras: int
    max_prompt_tokens: int


def describe_for_plans(directory: Path, accept_versions: Sequence[str] = ()) -> BundleToPlan:
    """Opens a bundle and describes its network, without torch.

    Raises:
        UsageError: the engine does not run it.
    """
    bundle = Bundle.open(directory, accept_versions=accept_versions)
    if reason := refusal(bundle):
        raise UsageError(f"{directory}: engine cuda: {reason}")
    tensors, io = StoredTensors(bundle.directory), PolicyIO.from_bundle(bundle)
    return BundleToPlan(
        description=describe_bundle(bundle, tensors, io),
        num_cameras=len(bundle.manifest.cameras),
        max_prompt_tokens=bundle.manifest.max_prompt_tokens,
    )


def format_build(report: Mapping[str, Any]) -> Sequence[Any]:
    """Returns the report as a rich table and lines below it."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    table.add_column("architecture", no_wrap=True)
    for column in ("kernels", "compiled now", "KiB", "CPU s", "registers", "shared KiB"):
        table.add_column(column, justify="right")
    lines: list[Any] = [table]
    for name, one in report["architectures"].items():
        kernels = one["kernels"]
        table.add_row(
            name,
            str(len(kernels)),
            str(one["compiled"]),
            f"{one['bytes'] / 1024:.0f}",
            f"{one['cpu_s']:.1f}",
            f"up to {max(kernel['registers'] for kernel in kernels)}",
            f"up to {max(kernel['shared_bytes'] for kernel in kernels) / 1024:.0f}",
        )
        lines += [
            f"{name}: {kernel['kernel']} spills {kernel['spill_bytes']} bytes ({kernel['file']})"
            for kernel in kernels
            if kernel["spill_bytes"]
        ]
    return [*lines, f"in {report['out']}, by triton {report['triton']}"]


def _wanted(target: Architecture, bundle: BundleToPlan | None) -> tuple[Specialisation, ...]:
    found = {one.key: one for one in shipped(target)}
    if bundle is not None:
        sizes = (bundle.num_cameras, bundle.max_prompt_tokens)
        found |= {one.key: one for one in needed(bundle.description, *sizes, target)}
    return tuple(found.values())


def _report(built: Built) -> dict[str, Any]:
    cubins = ((key, built.store.cubins[key]) for key in built.wanted)
    return {
        "folder": str(built.store.folder),
        "compiled": len(built.seconds),
        "bytes": built.num_bytes,
        "cpu_s": sum(built.seconds.values()),
        "kernels": [
            {
                "kernel": key.partition("(")[0],
                "key": key,
                "file": cubin.path.name,
                "registers": cubin.registers,
                "spill_bytes": cubin.spill_bytes,
                "shared_bytes": cubin.shared_bytes,
                "num_warps": cubin.num_warps,
            }
            for key, cubin in cubins
        ],
    }
