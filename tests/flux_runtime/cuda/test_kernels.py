"""Each kernel alone, against float64."""

from __future__ import annotations

import numpy as np
import pytest

from flux_runtime.cuda.plan import DType

from .interpreter import Memory, kernels, relative_error, run_launch
from .problems import PROBLEMS, TILES, Problem, make

TOLERANCES: dict[DType, float] = {"fp32": 2e-6, "bf16": 4e-3}
"""Relative errors. Rounding to bfloat16 is off by 2^-9 = 2e-3 at most and by about half of that on
average; a kernel does so up to twice: its rows or weights of a softmax, and its result."""


def loaded(problem: Problem) -> Memory:
    """The memory of a problem: its inputs, and everything else poisoned."""
    memory = Memory()
    for name, buffer in problem.plan.buffers.items():
        if buffer.role == "input":
            memory.put(name, buffer.dtype, problem.values[name])
        else:
            memory.add(name, buffer.dtype, *buffer.shape)
    return memory


def faults(problem: Problem, memory: Memory, dtype: DType) -> list[str]:
    """What is wrong with the results, by name."""
    found = []
    for name, wanted in problem.expected.items():
        got, is_written = memory.value(name), ~np.isnan(wanted)
        if not np.array_equal(~np.isnan(got), is_written):
            found.append(f"{name}: other elements are written than expected")
        elif is_written.any():
            error = relative_error(got[is_written], wanted[is_written])
            if error > TOLERANCES[dtype]:
                found.append(f"{name}: relative error {error:.1e}")
    return found


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_kernel_computes_what_float64_does(name: str, dtype: DType) -> None:
    for seed in range(3):
        problem = make(name, dtype, seed)
        memory = loaded(problem)
        for launch in problem.plan.launches:
            run_launch(launch, memory)
        assert faults(problem, memory, dtype) == []


def test_every_kernel_has_a_problem_with_several_programs() -> None:
    tested = {}
    for name in PROBLEMS:
        for launch in make(name, "fp32", 0).plan.launches:
            x, y, z = tested.get(launch.kernel, (1, 1, 1))
            grid = launch.grid
            tested[launch.kernel] = (max(x, grid[0]), max(y, grid[1]), max(z, grid[2]))
    assert set(tested) == set(kernels()) == set(TILES)
    assert all(x > 1 for x, _, _ in tested.values())
