"""The tests' own tools: the repaired interpreter, and the search for hazards."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from flux_runtime.cuda.plan import Pointer
from flux_runtime.cuda.recipes import as_bfloat16, as_float32

from .hazards import hazards
from .interpreter import Memory, OutOfBounds, Record, run_kernel

triton = pytest.importorskip("triton", reason="Triton is not installed: pip install triton==3.9.0")
import triton.language as tl  # noqa: E402


@triton.jit
def copy(x, out, SIZE: tl.constexpr):
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(out + at, tl.load(x + at).to(out.dtype.element_ty))


@triton.jit
def add(x, out, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(out + at, (tl.load(x + at) + tl.load(x + at)).to(out.dtype.element_ty))


@triton.jit
def total(x, out, SIZE: tl.constexpr):
    tl.store(out, tl.sum(tl.load(x + tl.arange(0, SIZE)), axis=0).to(out.dtype.element_ty))


@triton.jit
def product(x, out, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    tile = tl.load(x + at)
    tl.store(out + at, tl.dot(tile, tile, input_precision="ieee"))


def run(kernel: Any, memory: Memory, size: int, programs: int = 1) -> Record:
    record, arguments = Record(), (Pointer(buffer="x"), Pointer(buffer="out"))
    run_kernel(kernel, memory, arguments, {"SIZE": size}, (programs, 1, 1), record)
    return record


def memory_of(x: Any, x_type: Any, out_type: Any, size: int) -> Memory:
    memory = Memory()
    memory.put("x", x_type, x)
    memory.add("out", out_type, size)
    return memory


def test_float32_is_rounded_to_the_nearest_bfloat16_as_pytorch_does() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=1020).astype(np.float32) * 10.0 ** random.integers(-40, 38, 1020)
    ties = np.array([0x3F808000, 0x3F818000, 0x7F7FFFFF, 0xFF800000], np.uint32).view(np.float32)
    x = np.concatenate((values.astype(np.float32), ties))
    wanted = torch.from_numpy(x).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(as_bfloat16(x), wanted)
    memory = memory_of(x, "fp32", "bf16", 1024)
    run(copy, memory, 256, programs=4)
    assert np.array_equal(memory.arrays["out"], wanted)
    assert as_float32(as_bfloat16(np.array([np.nan], np.float32)))[0] != 0


def test_a_product_of_bfloat16_is_that_of_its_values() -> None:
    x = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    memory = memory_of(x, "bf16", "fp32", 256)
    run(product, memory, 16)
    values = memory.value("x")
    assert np.allclose(memory.value("out"), (values @ values).ravel(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", [add, total])
def test_arithmetic_on_bfloat16_is_refused(kernel: Any) -> None:
    memory = memory_of(np.ones(16), "bf16", "bf16", 16)
    with pytest.raises(Exception, match="bfloat16 arithmetic"):
        run(kernel, memory, 16)


def test_reading_and_writing_outside_a_buffer_is_refused() -> None:
    memory = memory_of(np.ones(48), "fp32", "fp32", 40)
    with pytest.raises(OutOfBounds, match="writes"):
        run(copy, memory, 16, programs=3)
    memory = memory_of(np.ones(32), "fp32", "fp32", 64)
    with pytest.raises(OutOfBounds, match="reads"):
        run(copy, memory, 16, programs=3)


def test_hazards_are_named() -> None:
    memory = memory_of(np.ones(64), "fp32", "fp32", 64)
    record = run(copy, memory, 16, programs=4)
    assert hazards(record, memory) == []
    twice = Record(record.loads, [*record.stores, record.stores[0]])
    assert hazards(twice, memory) == ["out: 16 elements are written twice"]
    loads = [*record.loads]
    loads[1].addresses = record.stores[0].addresses
    found = hazards(Record(loads, record.stores), memory)
    assert found == ["out: 16 elements are read while another program writes them"]
