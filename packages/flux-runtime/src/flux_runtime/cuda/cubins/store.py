"""The machine code of the kernels on disk: found, and checked before its first launch.

A store is a folder for one architecture, one state of the kernels' sources and one version of
Triton. It lies in the folder `prebuilt` of this package, if the wheel was built with one, or in the
user's cache, where `flux-runtime build` writes it. Reading needs no Triton.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from flux_core.errors import MissingDependencyError

from ..architectures import ARCHITECTURES, Architecture
from .file import read_cubin
from .kernel_sources import KERNELS, kernels_sha256
from .specialisation import Specialisation

INDEX = "index.json"
_FORMAT = 1
_DIGITS = 12
_WARP, _REGISTERS_OF_A_BLOCK = 32, 65536


@dataclass(frozen=True, kw_only=True)
class Cubin:
    """The machine code of one specialisation.

    Attributes:
        path: of the file.
        sha256: of its content.
        symbol: the kernel's name in it.
        shared_bytes: dynamic shared memory that a launch must give each block.
        num_warps: of a block, which may be more than were asked for.
        parameters: offset and size of each parameter, in order.
        registers: of a thread.
        spill_bytes: of a thread, that found no register.
    """

    path: Path
    sha256: str
    symbol: str
    shared_bytes: int
    num_warps: int
    parameters: tuple[tuple[int, int], ...]
    registers: int
    spill_bytes: int

    @property
    def num_threads(self) -> int:
        """Of a block."""
        return _WARP * self.num_warps

    def read(self) -> bytes:
        """Returns the file's content.

        Raises:
            MissingDependencyError: it is not what was built.
        """
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise _damaged(self.path, f"cannot be read ({error.strerror})") from error
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise _damaged(self.path, f"its SHA-256 is not the one in {INDEX}")
        return content

    def as_data(self) -> dict[str, Any]:
        """Returns plain data for the index."""
        return asdict(self) | {"path": self.path.name, "parameters": [*map(list, self.parameters)]}


@dataclass(frozen=True, kw_only=True)
class Store:
    """What `index.json` of a folder says.

    Attributes:
        folder: that it is in.
        arch: the architecture's name.
        kernels_sha256: of the sources.
        triton: the version that compiled them.
        cubins: by the specialisation's key.
    """

    folder: Path
    arch: str
    kernels_sha256: str
    triton: str
    cubins: Mapping[str, Cubin]

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Reads a folder's index.

        Raises:
            MissingDependencyError: the index is damaged.
        """
        try:
            data = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            if data["format"] != _FORMAT:
                raise ValueError(f"format {data['format']} instead of {_FORMAT}")
            return cls(
                folder=folder,
                arch=str(data["arch"]),
                kernels_sha256=str(data["kernels_sha256"]),
                triton=str(data["triton"]),
                cubins={key: _cubin(folder, entry) for key, entry in data["cubins"].items()},
            )
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise _damaged(folder / INDEX, f"is no index of kernels ({error})") from error

    def write_index(self) -> None:
        """Replaces the folder's index, at once."""
        data = {
            "format": _FORMAT,
            "arch": self.arch,
            "kernels_sha256": self.kernels_sha256,
            "triton": self.triton,
            "cubins": {key: cubin.as_data() for key, cubin in sorted(self.cubins.items())},
        }
        write_whole(self.folder / INDEX, (json.dumps(data, indent=1) + "\n").encode())


@dataclass(frozen=True, kw_only=True)
class Cubins:
    """All machine code of the installed kernels for one architecture, in one or more stores."""

    architecture: Architecture
    stores: tuple[Store, ...]

    def cubin(self, wanted: Specialisation) -> Cubin:
        """Returns the checked machine code of a specialisation.

        Its content, its architecture, what it needs of a card, and its parameters are compared with
        the index and with what the player will pass.

        Raises:
            MissingDependencyError: it was not built, or one of these differs.
        """
        for store in self.stores:
            if (found := store.cubins.get(wanted.key)) is not None:
                if found.path not in self._checked:
                    _check(found, wanted, self.architecture)
                    self._checked.add(found.path)
                return found
        name = self.architecture.name
        raise MissingDependencyError(
            f"kernel {wanted.kernel}: not compiled for {name} as this bundle needs it. Run: "
            f"flux-runtime build --arch {name} --bundle BUNDLE"
        )

    @cached_property
    def _checked(self) -> set[Path]:
        return set()


def find_cubins(arch: str, roots: Iterable[Path] | None = None, package: str = KERNELS) -> Cubins:
    """Finds the machine code of the installed kernels for an architecture.

    Args:
        arch: its name, such as 'sm_90a'.
        roots: folders of stores; by default those of the installation and of the user's cache.
        package: of the kernels.

    Raises:
        MissingDependencyError: there is none, or an index is damaged.
    """
    prefix = store_name(arch, kernels_sha256(package), "")
    folders = [
        index.parent
        for root in (default_roots() if roots is None else roots)
        for index in sorted(root.glob(f"{prefix}*/{INDEX}"), reverse=True)
    ]
    if not folders:
        raise MissingDependencyError(
            f"{arch}: the kernels of this version are not compiled for it. Run: flux-runtime build "
            f"--arch {arch} (needs pip install 'flux-runtime[build]')"
        )
    return Cubins(
        architecture=ARCHITECTURES[arch], stores=tuple(Store.open(folder) for folder in folders)
    )


def default_roots() -> tuple[Path, ...]:
    """Returns the folders in which stores are looked for: in the package, and the user's cache."""
    return (Path(__file__).parents[1] / "prebuilt", cache_root())


def cache_root() -> Path:
    """Returns `$XDG_CACHE_HOME/flux/cubins`, by default in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flux" / "cubins"


def store_name(arch: str, sources_sha256: str, triton: str) -> str:
    """Returns the name of a store's folder, which differs if any of these differs."""
    return f"{arch}_{sources_sha256[:_DIGITS]}_triton-{triton}"


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file that is either complete or absent."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def check_content(
    content: bytes, found: Cubin, parameters: tuple[tuple[int, int], ...], target: Architecture
) -> str:
    """Compares machine code with what is said of it and with what will be passed to it.

    Args:
        content: of the file.
        found: what the index says.
        parameters: offset and size of what is passed.
        target: the architecture that it is for.

    Returns:
        What is wrong, in a few words; '' if nothing is.
    """
    try:
        own = read_cubin(content)
    except ValueError as error:
        return str(error)
    threads, registers = _WARP * found.num_warps, found.num_warps * _WARP * own.registers
    for what, expected, got in (
        ("architecture", target.capability, own.capability),
        ("kernel", found.symbol, own.symbol),
        ("parameters (offset, size)", [*parameters], [*own.parameters]),
        ("threads of a block", threads, own.threads),
        ("registers", found.registers, own.registers),
    ):
        if expected != got:
            return f"expected {what} {expected}, got {got}"
    for what, most, got in (
        ("bytes of shared memory", target.shared_bytes, found.shared_bytes),
        ("registers of a block", _REGISTERS_OF_A_BLOCK, registers),
    ):
        if got > most:
            return f"expected at most {most} {what} on {target.name}, got {got}"
    return ""


def _check(found: Cubin, wanted: Specialisation, target: Architecture) -> None:
    wrong = check_content(found.read(), found, wanted.parameter_table, target)
    if wrong:
        raise _damaged(found.path, wrong)


def _cubin(folder: Path, entry: Mapping[str, Any]) -> Cubin:
    name = str(entry["path"])
    if Path(name).name != name:
        raise ValueError(f"a path outside the folder: {name}")
    numbers = ("shared_bytes", "num_warps", "registers", "spill_bytes")
    return Cubin(
        path=folder / name,
        sha256=str(entry["sha256"]),
        symbol=str(entry["symbol"]),
        parameters=tuple((int(offset), int(size)) for offset, size in entry["parameters"]),
        **{number: int(entry[number]) for number in numbers},
    )


def _damaged(path: Path, what: str) -> MissingDependencyError:
    arch = "_".join(path.parent.name.split("_")[:2])
    return MissingDependencyError(
        f"{path}: {what}. Delete its folder and run: flux-runtime build --arch {arch}"
    )
