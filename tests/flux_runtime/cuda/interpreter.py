"""Runs plans and kernels in Triton's interpreter, over numpy memory.

The interpreter keeps bfloat16 as its bits in uint16, multiplies these in `tl.dot`, and cuts float32
off where a card rounds (triton issues 11584 and 11585, which say that this stays). Here products
use the values, conversions round to nearest even, and any other arithmetic on bfloat16 is refused:
kernels have to convert to float32 first.

Each buffer is memory of its own, filled with NaN. Every load and store is checked against it before
it happens, and can be recorded.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray

from flux_runtime.cuda.plan import Buffer, DType, Launch, LaunchPlan, Pointer
from flux_runtime.cuda.recipes import as_bfloat16, as_float32, evaluate

os.environ.setdefault("TRITON_INTERPRET", "1")
triton = pytest.importorskip("triton", reason="Triton is not installed: pip install triton==3.9.0")
import triton.language as tl  # noqa: E402
from triton.runtime import interpreter as triton_interpreter  # noqa: E402

Array = NDArray[Any]
NUMPY: Mapping[DType, Any] = {
    "fp32": np.float32,
    "bf16": np.uint16,
    "u8": np.uint8,
    "i32": np.int32,
}
POISON: Mapping[DType, int | float] = {"fp32": np.nan, "bf16": 0x7FC0, "u8": 0xAA, "i32": -(2**30)}
GUARD_BYTES = 1 << 12


class OutOfBounds(Exception):
    """A kernel reads or writes outside the buffers, or from one buffer into another."""


class BFloat16Arithmetic(Exception):
    """A kernel computes in bfloat16."""


@dataclass
class Access:
    """What one program of a launch reads or writes in one instruction: byte addresses."""

    program: tuple[int, int, int]
    addresses: NDArray[np.uint64]
    item_bytes: int


@dataclass
class Record:
    """The loads and stores of a launch."""

    loads: list[Access] = field(default_factory=list)
    stores: list[Access] = field(default_factory=list)


class Memory:
    """The buffers of a plan, by name, each filled with NaN or a value nobody expects."""

    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}
        self._dtypes: dict[str, DType] = {}
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, name: str, dtype: DType, *shape: int) -> None:
        """Adds poisoned memory."""
        self.put(name, dtype, np.full(shape, POISON[dtype], NUMPY[dtype]))

    def put(self, name: str, dtype: DType, values: Array) -> None:
        """Adds memory with values; float32 is rounded if the memory is bfloat16."""
        if dtype == "bf16" and values.dtype != np.uint16:
            values = as_bfloat16(np.asarray(values, np.float32))
        wanted = np.asarray(values, NUMPY[dtype])
        # Space around it, so that nothing that leaves it by little ends up in another buffer.
        space = np.full(wanted.nbytes + 2 * GUARD_BYTES, 0xAA, np.uint8)
        inner = space[GUARD_BYTES : GUARD_BYTES + wanted.nbytes]
        self.arrays[name] = inner.view(wanted.dtype).reshape(wanted.shape)
        self.arrays[name][...] = wanted
        self._dtypes[name] = dtype
        spans = sorted(
            (array.ctypes.data, array.ctypes.data + array.nbytes) for array in self.arrays.values()
        )
        self._starts, self._ends = [a for a, _ in spans], [b for _, b in spans]

    def value(self, name: str) -> Array:
        """The content; bfloat16 as float32."""
        array = self.arrays[name]
        return as_float32(array) if self._dtypes[name] == "bf16" else array

    def pointer(self, to: Pointer) -> Any:
        """What a kernel is given for a pointer."""
        array, dtype = self.arrays[to.buffer], self._dtypes[to.buffer]
        address = array.ctypes.data + to.offset * array.itemsize
        kind = tl.str_to_ty(f"*{dtype}", None)
        handle = triton_interpreter.TensorHandle(np.array([address], np.uint64), kind)
        return tl.tensor(handle, kind)

    def check(self, addresses: NDArray[np.uint64], item_bytes: int, verb: str) -> None:
        """Refuses addresses that are not within one buffer.

        Raises:
            OutOfBounds: some are not.
        """
        if not addresses.size:
            return
        low, high = int(addresses.min()), int(addresses.max()) + item_bytes
        index = bisect_right(self._starts, low) - 1
        if index < 0 or high > self._ends[index]:
            raise OutOfBounds(f"a kernel {verb} outside its buffer")

    def name_at(self, address: int) -> str:
        """The name of the buffer of an address."""
        for name, array in self.arrays.items():
            if array.ctypes.data <= address < array.ctypes.data + array.nbytes:
                return name
        return "no buffer"


@contextmanager
def _instrumented(memory: Memory, record: Record | None) -> Iterator[None]:
    """Repairs the interpreter, and checks and records what kernels load and store."""
    builder = triton_interpreter.InterpreterBuilder
    original = {name: getattr(builder, name) for name in ("cast_impl", "binary_op", "unary_op")}
    load, store = builder.create_masked_load, builder.create_masked_store
    reductions = triton_interpreter.ReduceScanOpInterface
    check_tensor = reductions.check_tensor

    def touched(self: Any, pointers: Any, mask: Any, verb: str) -> None:
        chosen = pointers.data[np.broadcast_to(mask.data, pointers.data.shape)]
        item_bytes = pointers.get_element_ty().primitive_bitwidth // 8
        memory.check(chosen, item_bytes, verb)
        if record is not None:
            to = record.loads if verb == "reads" else record.stores
            to.append(Access(self.grid_idx, chosen.ravel(), item_bytes))

    def checked_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        touched(self, pointers, mask, "reads")
        return load(self, pointers, mask, *rest)

    def checked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        touched(self, pointers, mask, "writes")
        return store(self, pointers, value, mask, *rest)

    def cast(self: Any, value: Any, to: Any) -> Any:
        source, target = value.dtype.scalar, to.scalar
        handle = triton_interpreter.TensorHandle
        if source == tl.float32 and target == tl.bfloat16:
            return handle(as_bfloat16(value.data), target)
        if source == tl.bfloat16 and target == tl.float32:
            return handle(as_float32(value.data), target)
        assert tl.bfloat16 not in (source, target) or source == target, f"{source} to {target}"
        return original["cast_impl"](self, value, to)

    def refusing(name: str) -> Callable[..., Any]:
        def operate(self: Any, *operands: Any) -> Any:
            handles = (o for o in operands if isinstance(o, triton_interpreter.TensorHandle))
            if any(handle.dtype.scalar == tl.bfloat16 for handle in handles):
                raise BFloat16Arithmetic("bfloat16 arithmetic: convert to float32 first")
            return original[name](self, *operands)

        return operate

    def check_reduced(self: Any, tensors: Any) -> None:
        if any(tensor.dtype.scalar == tl.bfloat16 for tensor in tensors):
            raise BFloat16Arithmetic("bfloat16 arithmetic: convert to float32 first")
        check_tensor(self, tensors)

    def dot(self: Any, a: Any, b: Any, c: Any, *_: Any) -> Any:
        result = as_float32(a.data) @ as_float32(b.data) + c.data
        return triton_interpreter.TensorHandle(result, c.dtype.scalar)

    changes = {
        "create_masked_load": checked_load,
        "create_masked_store": checked_store,
        "cast_impl": cast,
        "binary_op": refusing("binary_op"),
        "unary_op": refusing("unary_op"),
        "create_dot": dot,
    }
    with ExitStack() as stack:
        for name, function in changes.items():
            stack.enter_context(mock.patch.object(builder, name, function))
        stack.enter_context(mock.patch.object(reductions, "check_tensor", check_reduced))
        stack.enter_context(np.errstate(over="ignore", invalid="ignore", divide="ignore"))
        yield


def run_kernel(
    kernel: Any,
    memory: Memory,
    arguments: tuple[Any, ...],
    constants: Mapping[str, Any],
    grid: tuple[int, int, int],
    record: Record | None = None,
) -> None:
    """Runs a kernel with plain arguments: Pointer, int or float.

    Raises:
        OutOfBounds: it reads or writes outside the memory.
        BFloat16Arithmetic: it computes in bfloat16.
    """
    names = [name for name in kernel.arg_names if name not in constants]
    assert len(names) == len(arguments), f"{names} are given {len(arguments)} arguments"
    given: dict[str, Any] = dict(constants)
    for name, argument in zip(names, arguments, strict=True):
        if isinstance(argument, Pointer):
            given[name] = memory.pointer(argument)
        else:
            given[name] = triton_interpreter._implicit_cvt(argument)
    builder = triton_interpreter.interpreter_builder
    builder.set_grid_dim(*grid)
    function = kernel.rewrite()
    with _patched_language(kernel), _instrumented(memory, record):
        for program in product(*map(range, grid)):
            builder.set_grid_idx(*program)
            function(**given)


@contextmanager
def _patched_language(kernel: Any) -> Iterator[None]:
    """Replaces Triton's language by the interpreter's, once per launch instead of in each call of a
    device function, which takes most of the time otherwise."""

    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        return self.rewrite()(*arguments, **named)

    # Functions of the language itself, such as `tl.zeros`, see another of its modules.
    scopes = [triton_interpreter._patch_lang(fn) for fn in (kernel.fn, tl.zeros.fn)]
    builder = triton_interpreter.interpreter_builder
    # Each sum of two integers would otherwise be checked in int64, which doubles the time.
    options = replace(builder.options, sanitize_overflow=False)
    try:
        with (
            mock.patch.object(triton_interpreter.InterpretedFunction, "__call__", call),
            mock.patch.object(builder, "options", options),
        ):
            yield
    finally:
        for scope in reversed(scopes):
            scope.restore()


def kernels() -> Mapping[str, Any]:
    """All kernels by name."""
    from flux_runtime.cuda.kernels import attention, inputs, linear

    return {
        name: value
        for module in (linear, attention, inputs)
        for name, value in vars(module).items()
        if isinstance(value, triton_interpreter.InterpretedFunction) and name[0] != "_"
    }


def run_launch(launch: Launch, memory: Memory, record: Record | None = None) -> None:
    """Runs a launch of a plan."""
    kernel = kernels()[launch.kernel]
    run_kernel(kernel, memory, launch.arguments, launch.constants, launch.grid, record)


class PlanRunner:
    """Runs a plan: constants are evaluated once, all other memory is poisoned before each run."""

    def __init__(self, plan: LaunchPlan, read: Callable[[str], Array]) -> None:
        self.plan = plan
        self.memory = Memory()
        for name, buffer in plan.buffers.items():
            if buffer.role == "constant":
                self.memory.put(name, buffer.dtype, constant(buffer, read))

    def run(
        self, inputs: Mapping[str, Array], after: Callable[[Launch, Record], None] | None = None
    ) -> Array:
        """Returns the actions.

        Args:
            inputs: by the names of the plan's inputs; others are ignored.
            after: called behind each launch, with what it has read and written.
        """
        for name, buffer in self.plan.buffers.items():
            if buffer.role == "input":
                values = np.asarray(inputs[name], NUMPY[buffer.dtype])
                assert values.shape == buffer.shape, f"{name}: {values.shape}, {buffer.shape}"
                self.memory.put(name, buffer.dtype, values)
            elif buffer.role != "constant":
                self.memory.add(name, buffer.dtype, *buffer.shape)
        for launch in self.plan.launches:
            record = None if after is None else Record()
            run_launch(launch, self.memory, record)
            if after is not None and record is not None:
                after(launch, record)
        return self.memory.value("actions")


def constant(buffer: Buffer, read: Callable[[str], Array]) -> Array:
    """Evaluates a constant, and checks its shape."""
    assert buffer.recipe is not None
    assert buffer.dtype in ("fp32", "bf16")
    values = evaluate(buffer.recipe, buffer.dtype, read)
    assert values.shape == buffer.shape, f"{buffer.recipe}: {values.shape}, {buffer.shape}"
    return values


def relative_error(got: Array, wanted: Array) -> float:
    """The norm of the difference over the norm of what is wanted."""
    difference = np.asarray(got, np.float64) - np.asarray(wanted, np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(wanted))
