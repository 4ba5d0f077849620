"""What a launch has to be compiled for, without Triton."""

from __future__ import annotations

from pathlib import Path

import pytest

from flux_runtime.cuda.cubins.kernel_sources import kernel_sources, kernels_sha256
from flux_runtime.cuda.cubins.specialisation import specialisations, specialise
from flux_runtime.cuda.plan import Pointer

from .tiny_kernels import (
    FULL,
    HALF,
    PACKAGE,
    PRODUCT,
    SCALE,
    launch,
    tiny_kernels,
    tiny_plan,
    wanted,
)


@pytest.fixture(autouse=True)
def package(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    return tiny_kernels(tmp_path_factory.getbasetemp(), monkeypatch)


def test_a_kernels_signature_is_read_from_its_source() -> None:
    sources = kernel_sources(PACKAGE)
    assert sorted(sources) == ["broken", "crash", "product", "scale"]
    scale = sources["scale"]
    assert scale.module == f"{PACKAGE}.sound"
    assert scale.parameters == ("x", "out", "M", "factor")
    assert scale.constants == ("BM",)
    assert scale.not_specialized == {"M"}


def test_a_product_in_a_function_that_a_kernel_calls_is_its_own() -> None:
    sources = kernel_sources(PACKAGE)
    assert sources["product"].has_product
    assert not sources["scale"].has_product


def test_the_hash_covers_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    hashes = []
    for name, text in (("first_kernels", "# a\n"), ("other_kernels", "# b\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        (tmp_path / name / "one.py").write_text(text)
        hashes.append(kernels_sha256(name))
    assert hashes[0] != hashes[1]


def test_the_key_names_everything_that_the_machine_code_depends_on() -> None:
    (found,) = wanted(SCALE)
    assert found.key == "scale(*bf16/16, *fp32/16, i32, fp32) BM=64 warps=4 stages=3"
    (found,) = wanted(PRODUCT)
    assert found.key == (
        "product(*bf16/16, *bf16/16, *fp32/16, i32/16) BM=64 IS_WIDE=1 warps=4 stages=3"
    )


def test_alignment_is_compiled_in_only_where_it_is_there_and_wanted() -> None:
    def types(*arguments: Pointer | int | float) -> list[str]:
        (found,) = wanted(launch("product", *arguments, IS_WIDE=False, BM=16))
        return [f"{one.type}{'/16' * one.is_aligned}" for one in found.parameters]

    odd, even = Pointer(buffer="half", offset=4), Pointer(buffer="half", offset=8)
    assert types(odd, even, FULL, 24) == ["*bf16", "*bf16/16", "*fp32/16", "i32"]
    assert types(HALF, HALF, Pointer(buffer="full", offset=4), 32)[2:] == ["*fp32/16", "i32/16"]


def test_sizes_that_are_arguments_share_a_specialisation() -> None:
    launches = [launch("scale", HALF, FULL, rows, 1.0 / rows, BM=64) for rows in (1, 16, 17, 4096)]
    assert len([*specialisations([tiny_plan(launches)] * 2, PACKAGE)]) == 1


def test_parameters_are_laid_out_as_the_driver_reads_them() -> None:
    (scale,) = wanted(SCALE)
    assert scale.parameter_table == ((0, 8), (8, 8), (16, 4), (20, 4), (24, 8), (32, 8))
    (product,) = wanted(PRODUCT)
    assert product.parameter_table == ((0, 8), (8, 8), (16, 8), (24, 4), (32, 8), (40, 8))


def test_a_launch_that_does_not_fit_its_kernel_is_a_mistake_of_ours() -> None:
    plan = tiny_plan([])
    with pytest.raises(AssertionError, match=r"scale\(x, out, M, factor\): 3 arguments"):
        specialise(plan, launch("scale", HALF, FULL, 4, BM=64), PACKAGE)
    with pytest.raises(AssertionError, match="expected the constants"):
        specialise(plan, launch("scale", HALF, FULL, 4, 1.0, BN=64), PACKAGE)
