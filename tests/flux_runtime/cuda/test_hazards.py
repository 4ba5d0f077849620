"""Bounds, double writes and races, from recorded loads and stores; and that faults are found."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from flux_runtime.cuda.pi import work_of
from flux_runtime.cuda.pi.builder import at
from flux_runtime.cuda.plan import Launch, Pointer

from .hazards import hazards, touched
from .interpreter import Memory, OutOfBounds, Record, kernels, run_kernel
from .problems import PROBLEMS, Problem, make
from .test_kernels import faults, loaded

Change = tuple[str, str]


@dataclass(frozen=True)
class Observed:
    """What running a problem shows.

    Attributes:
        wrong: results that are not the expected ones.
        hazards: between programs.
        left: whether a kernel left its memory.
        record: of the last launch.
        memory: after the run.
    """

    wrong: list[str]
    hazards: list[str]
    left: bool
    record: Record
    memory: Memory

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not (self.wrong or self.hazards or self.left)


def observe(
    problem: Problem,
    kernel: Any = None,
    change: Callable[[Launch], Launch] = lambda launch: launch,
    stale: str = "",
) -> Observed:
    """Runs a problem, perhaps with another first kernel, other arguments or a stale input."""
    memory = loaded(problem)
    if stale:
        buffer = problem.plan.buffers[stale]
        memory.add(stale, buffer.dtype, *buffer.shape)
    found, left, record = [], False, Record()
    for number, launch in enumerate(problem.plan.launches):
        record = Record()
        used = kernel if kernel and number == 0 else kernels()[launch.kernel]
        changed = change(launch) if number == 0 else launch
        try:
            run_kernel(used, memory, changed.arguments, launch.constants, changed.grid, record)
        except OutOfBounds:
            left = True
        found += hazards(record, memory)
    return Observed(faults(problem, memory, "fp32"), found, left, record, memory)


DATA_DEPENDENT = {"words", "scale", "offset"}
"""Which of their rows are read depends on the tokens and cameras, or on the time."""


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_good_kernel_has_no_hazard_and_touches_what_its_work_says(name: str) -> None:
    problem = make(name, "fp32", 0)
    observed = observe(problem)
    assert observed.is_clean
    work = work_of(problem.plan.launches[-1])
    written, read = (
        touched(part, observed.memory) for part in (observed.record.stores, observed.record.loads)
    )
    assert written == {
        span.buffer: (span.begin, span.end, span.size) for span in work.writes if span.size
    }
    spans: dict[str, tuple[int, int]] = {}
    for span in (span for span in work.reads if span.size):
        begin, end = spans.get(span.buffer, (span.begin, span.end))
        spans[span.buffer] = min(begin, span.begin), max(end, span.end)
    assert set(read) == set(spans)
    for buffer in set(read) - DATA_DEPENDENT:
        begin, end, _ = read[buffer]
        assert spans[buffer][0] <= begin and end <= spans[buffer][1], buffer


CHANGES: Mapping[str, Mapping[str, Change]] = {
    "bounds by one": {
        **dict.fromkeys(("linear", "geglu", "euler", "qkv_rope"), ("rows < M", "rows <= M")),
        "attention": ("token < T", "token <= T"),
        "combine": ("rows < R", "rows <= R"),
        "patches": ("rows < PATCHES", "rows <= PATCHES"),
        "embed": ("columns < N", "columns <= N"),
        "start": ("rows < M", "rows <= M"),
    },
    "double write": {
        **dict.fromkeys(
            ("linear", "geglu", "euler", "qkv_rope", "attention", "combine", "patches", "start"),
            ("tl.program_id(0) * BM", "tl.program_id(0) * (BM - 1)"),
        ),
        "embed": ("tl.program_id(1) * BN", "tl.program_id(1) * (BN - 1)"),
    },
    "missing mask": {
        "linear": (", mask=inside)\n", ")\n"),
        "geglu": (", mask=inside)\n", ")\n"),
        "euler": ("tl.where(is_known[:, None], now, moved), mask=inside", "moved"),
        "qkv_rope": (", mask=row_ok[:, None])\n    tl.store", ")\n    tl.store"),
        "attention": ("out.dtype.element_ty), mask=inside", "out.dtype.element_ty)"),
        "combine": ("out.dtype.element_ty), mask=inside", "out.dtype.element_ty)"),
        "patches": ("out.dtype.element_ty), mask=ok", "out.dtype.element_ty)"),
        "embed": ("out.dtype.element_ty), mask=column_ok", "out.dtype.element_ty)"),
        "start": ("tl.where(is_known, clean, noisy), mask=ok", "tl.where(is_known, clean, noisy)"),
    },
    "wrong stride": {
        **dict.fromkeys(
            ("linear", "geglu", "euler", "patches", "start"),
            ("at = rows[:, None] * N", "at = rows[:, None] * (N + 1)"),
        ),
        "qkv_rope": (
            "(rows * HEADS + head)[:, None] * D",
            "(rows * HEADS + head)[:, None] * D * 2",
        ),
        "attention": ("token) * out_stride", "token) * (out_stride + 1)"),
        "combine": ("out + rows[:, None] * D", "out + rows[:, None] * (D + 1)"),
        "embed": ("out + row * N", "out + row * (N + 1)"),
    },
    "a read one further": {
        **dict.fromkeys(
            ("linear", "geglu", "euler", "qkv_rope"),
            ("x + rows[:, None] * K", "x + 1 + rows[:, None] * K"),
        ),
        "attention": ("from_q[:, None] + dims", "from_q[:, None] + 1 + dims"),
        "combine": ("parts + (split", "parts + 1 + (split"),
        "patches": ("images + corner", "images + 1 + corner"),
        "embed": ("table + token", "table + 1 + token"),
        "start": ("known + at", "known + 1 + at"),
    },
}
"""Fault -> kernel -> what is changed in its source."""
IN_PLACE: Mapping[str, tuple[str, Pointer]] = {
    "linear": ("out", Pointer(buffer="x")),
    "geglu": ("out", Pointer(buffer="x")),
    "euler": ("out", Pointer(buffer="x")),
    "qkv_rope": ("keys", Pointer(buffer="x")),
    "attention": ("out", Pointer(buffer="keys")),
    "combine": ("out", at(Pointer(buffer="parts"), 16 * 24)),
    "patches": ("out", Pointer(buffer="table")),
    "embed": ("out", Pointer(buffer="words")),
    "start": ("x_t", at(Pointer(buffer="noise"), 16 * 20)),
}
"""Kernel -> the result that is written over what other programs read."""
STALE: Mapping[str, str] = {
    "linear": "x",
    "geglu": "up",
    "euler": "x_t",
    "qkv_rope": "angles",
    "attention": "values",
    "combine": "parts",
    "patches": "table",
    "embed": "words",
    "start": "noise",
}
"""Kernel -> an input that nothing has written in this inference."""


@pytest.mark.parametrize("fault", CHANGES)
@pytest.mark.parametrize("name", IN_PLACE)
def test_faults_in_a_kernel_are_found(fault: str, name: str, tmp_path: Path) -> None:
    kernel = _changed_kernel(name, CHANGES[fault][name], tmp_path)
    observed = observe(make(name, "fp32", 0), kernel)
    assert not observed.is_clean
    if fault == "double write":
        assert any("written twice" in hazard for hazard in observed.hazards)


@pytest.mark.parametrize("name", IN_PLACE)
def test_a_result_over_what_other_programs_read_is_found(name: str) -> None:
    parameter, to = IN_PLACE[name]
    names = [n for n in kernels()[name].arg_names if n not in _constants(name)]

    def change(launch: Launch) -> Launch:
        arguments = list(launch.arguments)
        arguments[names.index(parameter)] = to
        return replace(launch, arguments=tuple(arguments))

    observed = observe(make(name, "fp32", 0), change=change)
    assert any("another program writes" in hazard for hazard in observed.hazards)


@pytest.mark.parametrize("name", STALE)
def test_an_input_that_nothing_has_written_is_found(name: str) -> None:
    assert observe(make(name, "fp32", 0), stale=STALE[name]).wrong


def _constants(name: str) -> Mapping[str, Any]:
    return make(name, "fp32", 0).plan.launches[0].constants


def _changed_kernel(name: str, change: Change, folder: Path) -> Any:
    """The kernel of a module whose source is changed within that kernel."""
    old, new = change
    source = Path(inspect.getfile(kernels()[name].fn)).read_text()
    begin = source.index(f"def {name}(")
    end = source.find("\n@triton.jit", begin)
    body = source[begin : end if end > 0 else None]
    assert old in body, f"{name}: no {old!r}"
    text = source.replace(body, body.replace(old, new))
    text = text.replace("from .linear", "from flux_runtime.cuda.kernels.linear")
    return getattr(_module(text, folder / f"changed_{name}.py"), name)


def _module(text: str, path: Path) -> ModuleType:
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
