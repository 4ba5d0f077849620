"""Compiling ahead of time: without torch and without a card, with clear errors."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from flux_core.errors import FluxError, MissingDependencyError
from flux_runtime.cli import main
from flux_runtime.cuda.cubins import find_cubins
from flux_runtime.cuda.cubins.build import Built, build
from flux_runtime.cuda.plan import Launch

from .tiny_kernels import (
    FULL,
    PACKAGE,
    PRODUCT,
    SCALE,
    SM_89,
    SM_90,
    for_all,
    launch,
    tiny_kernels,
    wanted,
)

pytest.importorskip("triton", reason="triton is not installed")


@pytest.fixture(autouse=True)
def package(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    return tiny_kernels(tmp_path_factory.getbasetemp(), monkeypatch)


def build_tiny(out: Path, *launches: Launch, targets: tuple[object, ...] = (SM_90,)) -> list[Built]:
    chosen = [one for one in (SM_89, SM_90) if one in targets]
    return [*build(for_all(chosen, *launches), out, package=PACKAGE, num_processes=1)]


def refuse_torch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes importing torch fail in child processes."""
    folder.mkdir()
    (folder / "torch.py").write_text("raise ImportError('torch was imported')\n")
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")


def test_kernels_are_compiled_without_torch_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_torch(tmp_path / "no_torch", monkeypatch)
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # as in a process that runs the interpreter
    told: list[tuple[str, int, int]] = []
    out = tmp_path / "out"
    jobs = for_all((SM_89, SM_90), SCALE)
    found = build(jobs, out, lambda *step: told.append(step), package=PACKAGE, num_processes=1)
    assert told == [("scale for sm_89", 1, 2), ("scale for sm_90a", 2, 2)]
    assert [one.store.arch for one in found] == ["sm_89", "sm_90a"]
    assert all(len(one.seconds) == 1 and one.num_bytes > 1000 for one in found)
    (scale,) = wanted(SCALE)
    for target in (SM_89, SM_90):
        cubin = find_cubins(target.name, [out], PACKAGE).cubin(scale)
        assert cubin.symbol == "scale"
        assert cubin.num_threads == 128
        assert cubin.parameters == scale.parameter_table
        assert 0 < cubin.registers < 256
        assert cubin.spill_bytes == 0

    again = build(jobs, out, lambda *_: told.append(("", 0, 0)), package=PACKAGE)
    assert len(told) == 2
    assert [one.store.cubins for one in again] == [one.store.cubins for one in found]


def test_the_same_machine_code_is_built_everywhere(tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        (built,) = build_tiny(tmp_path / name, SCALE)
        (cubin,) = built.store.cubins.values()
        contents.append(cubin.read())
    assert contents[0] == contents[1]
    assert str(tmp_path).encode() not in contents[0]


def test_what_is_damaged_is_compiled_again(tmp_path: Path) -> None:
    (built,) = build_tiny(tmp_path, SCALE)
    (cubin,) = built.store.cubins.values()
    whole = cubin.path.read_bytes()
    cubin.path.write_bytes(whole[:-1])
    (rebuilt,) = build_tiny(tmp_path, SCALE)
    assert len(rebuilt.seconds) == 1
    assert cubin.path.read_bytes() == whole


def test_other_kernels_are_added_to_a_store(tmp_path: Path) -> None:
    build_tiny(tmp_path, SCALE)
    (built,) = build_tiny(tmp_path, PRODUCT)
    assert len(built.seconds) == 1
    assert len(built.store.cubins) == 2
    assert [*tmp_path.rglob("*partial*")] == []


def test_a_kernel_that_cannot_be_compiled_is_named_with_its_architecture(tmp_path: Path) -> None:
    with pytest.raises(FluxError) as caught:
        build_tiny(tmp_path, SCALE, launch("broken", FULL, BM=16))
    message = str(caught.value)
    assert message.startswith("kernel broken for sm_90a: cannot be compiled (ValueError: ")
    assert "power of 2" in message
    assert "\n" not in message
    (kept,) = build_tiny(tmp_path, SCALE)
    assert not kept.seconds, "what was compiled before stays"


def test_a_compiler_that_crashes_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FluxError, match=r"kernel crash for sm_90a: .* process ended with 9"):
        build_tiny(tmp_path, launch("crash", FULL))


def test_a_kernel_too_large_for_a_card_is_refused(tmp_path: Path) -> None:
    small = replace(SM_89, shared_bytes=1024)
    with pytest.raises(FluxError) as caught:
        build(for_all((small,), PRODUCT), tmp_path, package=PACKAGE, num_processes=1)
    message = str(caught.value)
    assert message.startswith("kernel product for sm_89: expected at most 1024 bytes of shared ")
    assert not [*tmp_path.rglob("*.cubin")]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FluxError, match=r"file/.*: cannot be created .*Choose another --out"):
        build_tiny(tmp_path / "file", SCALE)


def test_triton_that_is_missing_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("flux_runtime.cuda.cubins.build.version", missing)
    with pytest.raises(MissingDependencyError, match=r"pip install 'flux-runtime\[build\]'"):
        build([], Path())


def test_the_command_builds_into_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flux_runtime.cuda.cubins.shipped import shipped

    def few(target: object) -> list[object]:
        return [one for one in shipped(target) if one.kernel in ("start", "embed")]  # type: ignore[arg-type]

    monkeypatch.setattr("flux_runtime.cuda.cubins.command.shipped", few)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["build", "--arch", "sm_89", "sm_89", "--jobs", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    one = report["architectures"]["sm_89"]
    assert report["out"] == str(tmp_path / "flux" / "cubins")
    assert one["compiled"] == 2
    assert sorted(kernel["kernel"] for kernel in one["kernels"]) == ["embed", "start"]
    folder = Path(one["folder"])
    assert folder.parent == tmp_path / "flux" / "cubins"
    assert folder.name.startswith(f"sm_89_{report['kernels_sha256'][:12]}_triton-")
    found = find_cubins("sm_89")
    assert all(found.cubin(kernel).read() for kernel in few(SM_89))  # type: ignore[arg-type]

    assert main(["build", "--arch", "sm_89"]) == 0
    printed = capsys.readouterr().out
    assert "sm_89" in printed
    assert str(tmp_path) in printed.replace("\n", "")


def test_an_unknown_architecture_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--arch", "sm_90"]) == 2
    error = capsys.readouterr().err
    assert "got 'sm_90'" in error
    assert "sm_90a" in error
    assert error.count("\n") == 1
