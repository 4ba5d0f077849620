"""A package of tiny kernels, and a plan that launches them: quick to compile."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from flux_runtime.cuda.architectures import ARCHITECTURES, Architecture
from flux_runtime.cuda.cubins.specialisation import Specialisation, specialisations
from flux_runtime.cuda.plan import Argument, Buffer, Launch, LaunchPlan, Pointer

PACKAGE = "tiny_kernels_of_tests"
SM_90, SM_89 = ARCHITECTURES["sm_90a"], ARCHITECTURES["sm_89"]

_HEAD = "import triton\nimport triton.language as tl\n\n\n"
_SOUND = """@triton.jit
def _twice(x):
    return x * 2


@triton.jit(do_not_specialize=["M"])
def scale(x, out, M, factor, BM: tl.constexpr):
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    values = tl.load(x + rows, mask=rows < M, other=0.0).to(tl.float32)
    tl.store(out + rows, (_twice(values) * factor).to(out.dtype.element_ty), mask=rows < M)


@triton.jit
def _multiply(a, b):
    return tl.dot(a, b)


@triton.jit
def product(a, b, out, N, IS_WIDE: tl.constexpr, BM: tl.constexpr):
    rows = tl.arange(0, BM)
    at = rows[:, None] * N + rows[None, :]
    tl.store(out + at, _multiply(tl.load(a + at), tl.load(b + at)))
"""
_BROKEN = """@triton.jit
def broken(x, BM: tl.constexpr):
    tl.store(x + tl.arange(0, 3), 0.0)
"""
_CRASHING = "import os\n\nos._exit(9)\n\n\n@triton.jit\ndef crash(x):\n    tl.store(x, 0.0)\n"


def tiny_kernels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Writes the package and makes it importable, here and in the compiler; returns its name."""
    package = folder / PACKAGE
    if not package.is_dir():
        package.mkdir()
        for name, text in (
            ("__init__", '"""Tiny kernels."""\n'),
            ("sound", _HEAD + _SOUND),
            ("broken", _HEAD + _BROKEN),
            ("crashing", _HEAD + _CRASHING),
        ):
            (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return PACKAGE


def tiny_plan(launches: Sequence[Launch]) -> LaunchPlan:
    """A plan with a bfloat16 and a float32 buffer of 4096 elements each."""
    buffers = {
        "half": Buffer(dtype="bf16", shape=(4096,), role="work"),
        "full": Buffer(dtype="fp32", shape=(4096,), role="work"),
    }
    return LaunchPlan(name="tiny", buffers=buffers, launches=tuple(launches))


def launch(kernel: str, *arguments: Argument, **constants: int | bool) -> Launch:
    """A launch of one program."""
    return Launch(
        stage="tiny", kernel=kernel, arguments=arguments, constants=constants, grid=(1, 1, 1)
    )


HALF, FULL = Pointer(buffer="half"), Pointer(buffer="full")
SCALE = launch("scale", HALF, FULL, 48, 0.5, BM=64)
PRODUCT = launch("product", HALF, HALF, FULL, 64, IS_WIDE=True, BM=64)


def wanted(*launches: Launch) -> list[Specialisation]:
    """What launches of the tiny kernels need."""
    return [*specialisations([tiny_plan(launches)], PACKAGE)]


def for_all(
    targets: Sequence[Architecture], *launches: Launch
) -> list[tuple[Architecture, list[Specialisation]]]:
    """The same for several architectures."""
    return [(target, wanted(*launches)) for target in targets]
