"""A store of machine code is checked before its first launch; each fault is one line with a fix."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flux_core.errors import MissingDependencyError
from flux_runtime.cuda.cubins.build import build
from flux_runtime.cuda.cubins.file import read_cubin
from flux_runtime.cuda.cubins.store import INDEX, Cubin, Cubins, find_cubins

from .tiny_kernels import (
    FULL,
    HALF,
    PACKAGE,
    SCALE,
    SM_89,
    SM_90,
    for_all,
    launch,
    tiny_kernels,
    wanted,
)

if TYPE_CHECKING:
    from ....conftest import MakeOnce

pytest.importorskip("triton", reason="triton is not installed")


@pytest.fixture(autouse=True)
def package(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    return tiny_kernels(tmp_path_factory.getbasetemp(), monkeypatch)


@pytest.fixture
def root(made_once: MakeOnce, tmp_path: Path) -> Path:
    """A copy of stores for two architectures, each with the kernel `scale`."""

    def write(folder: Path) -> None:
        build(for_all((SM_89, SM_90), SCALE), folder, package=PACKAGE, num_processes=1)

    return Path(shutil.copytree(made_once("tiny_cubins", write), tmp_path / "stores"))


def open_stores(root: Path, arch: str = "sm_90a") -> Cubins:
    return find_cubins(arch, [root / "nothing_here", root], PACKAGE)


def read_scale(root: Path) -> Cubin:
    (scale,) = wanted(SCALE)
    return open_stores(root).cubin(scale)


def folder_of(root: Path, arch: str = "sm_90a") -> Path:
    (folder,) = root.glob(f"{arch}_*")
    return folder


def change_index(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    file = folder_of(root) / INDEX
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def change_entry(root: Path, **fields: Any) -> None:
    change_index(
        root, lambda data: [one.update(fields) for one in data["cubins"].values()] and None
    )


def replace_content(root: Path, content: bytes) -> None:
    """Puts other machine code in place, with its own hash in the index."""
    (file,) = folder_of(root).glob("*.cubin")
    file.write_bytes(content)
    change_entry(root, sha256=hashlib.sha256(content).hexdigest())


def the_content(root: Path, arch: str = "sm_90a") -> bytes:
    (file,) = folder_of(root, arch).glob("*.cubin")
    return file.read_bytes()


def test_a_sound_store_gives_what_a_launch_needs(root: Path) -> None:
    cubin = read_scale(root)
    own = read_cubin(cubin.read())
    assert own.capability == 90
    assert (own.symbol, own.parameters) == (cubin.symbol, cubin.parameters)
    assert (own.threads, own.registers) == (cubin.num_threads, cubin.registers)


def test_a_kernel_is_checked_once(root: Path) -> None:
    stores, (scale,) = open_stores(root), wanted(SCALE)
    cubin = stores.cubin(scale)
    cubin.path.unlink()
    assert stores.cubin(scale) == cubin


def test_nothing_built_says_how_to_build(tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError) as caught:
        find_cubins("sm_89", [tmp_path])
    assert str(caught.value) == (
        "sm_89: the kernels of this version are not compiled for it. Run: flux-runtime build "
        "--arch sm_89 (needs pip install 'flux-runtime[build]')"
    )


def test_cubins_of_other_sources_are_not_taken(root: Path) -> None:
    folder = folder_of(root)
    folder.rename(folder.with_name("sm_90a_0123456789ab_triton-3.9.0"))
    with pytest.raises(MissingDependencyError, match="not compiled for it"):
        read_scale(root)


def test_a_kernel_that_was_not_built_is_named(root: Path) -> None:
    (other,) = wanted(launch("scale", HALF, FULL, 48, 0.5, BM=128))
    with pytest.raises(MissingDependencyError, match=r"kernel scale: .*--arch sm_90a --bundle"):
        open_stores(root).cubin(other)


def _flip(root: Path) -> None:
    (file,) = folder_of(root).glob("*.cubin")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def _other_architecture(root: Path) -> None:
    replace_content(root, the_content(root, "sm_89"))


def _another_symbol(root: Path) -> None:
    change_entry(root, symbol="another")


def _cut_off(root: Path) -> None:
    content = the_content(root)
    replace_content(root, content[: len(content) // 2])


def _empty(root: Path) -> None:
    replace_content(root, b"")


def _for_a_processor(root: Path) -> None:
    content = bytearray(the_content(root))
    struct.pack_into("<H", content, 18, 62)  # e_machine: x86-64
    replace_content(root, bytes(content))


def _outside(root: Path) -> None:
    change_entry(root, path="../scale.cubin")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (_flip, "its SHA-256 is not the one in index.json"),
    "a missing file": (
        lambda root: next(folder_of(root).glob("*.cubin")).unlink(),
        "cannot be read (No such file or directory)",
    ),
    "another architecture": (_other_architecture, "expected architecture 90, got 89"),
    "another kernel": (_another_symbol, "expected kernel another, got scale"),
    "half a file": (_cut_off, "is cut off"),
    "an empty file": (_empty, "is no ELF file"),
    "code for a processor": (_for_a_processor, "holds no code for NVIDIA's cards"),
    "too much shared memory": (
        lambda root: change_entry(root, shared_bytes=300_000),
        "expected at most 232448 bytes of shared memory on sm_90a, got 300000",
    ),
    "other warps": (
        lambda root: change_entry(root, num_warps=8),
        "expected threads of a block 256, got 128",
    ),
    "other registers": (lambda root: change_entry(root, registers=1), "expected registers 1, got"),
    "an index that is no JSON": (
        lambda root: (folder_of(root) / INDEX).write_text("{"),
        "is no index of kernels",
    ),
    "an index of another format": (
        lambda root: change_index(root, lambda data: data.update(format=99)),
        "is no index of kernels (format 99 instead of 1)",
    ),
    "an index that lacks a key": (
        lambda root: change_index(root, lambda data: data.pop("arch") and None),
        "is no index of kernels ('arch')",
    ),
    "a path outside the folder": (_outside, "a path outside the folder: ../scale.cubin"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_with_the_fix(root: Path, fault: str) -> None:
    plant, expected = FAULTS[fault]
    plant(root)
    with pytest.raises(MissingDependencyError) as caught:
        read_scale(root)
    message = str(caught.value)
    assert expected in message
    assert message.endswith("Delete its folder and run: flux-runtime build --arch sm_90a")
    assert message.startswith(str(folder_of(root)))
    assert "\n" not in message


def test_parameters_other_than_the_player_packs_are_refused(root: Path) -> None:
    (scale,) = wanted(SCALE)
    other = replace(scale, parameters=(*scale.parameters[:3], scale.parameters[0]))
    change_index(
        root, lambda data: data["cubins"].update({other.key: data["cubins"][scale.key]}) and None
    )
    with pytest.raises(MissingDependencyError) as caught:
        open_stores(root).cubin(other)
    assert "expected parameters (offset, size) [(0, 8), (8, 8), (16, 4), (24, 8)" in str(
        caught.value
    )


def test_machine_code_is_looked_for_in_every_store(root: Path, tmp_path: Path) -> None:
    """As when the wheel has the usual kernels, and the user's cache those of a bundle."""
    other = launch("scale", HALF, FULL, 48, 0.5, BM=32)
    cache = tmp_path / "cache"
    build(for_all((SM_90,), other), cache, package=PACKAGE, num_processes=1)
    found = find_cubins("sm_90a", [root, cache], PACKAGE)
    places = {found.cubin(one).path.parent.parent for one in wanted(SCALE, other)}
    assert places == {root, cache}
