"""Runs the launches of a plan one by one, through NVIDIA's driver.

The player gives nothing but actions. This gives what each part of a plan has computed, and the time
of each part. It allocates, packs and launches independently of the player.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_runtime.cuda.cubins import Cubin, Cubins, specialise
from flux_runtime.cuda.plan import ITEM_BYTES, Buffer, DType, Launch, LaunchPlan, Pointer
from flux_runtime.cuda.recipes import Read, as_bfloat16, as_float32, evaluate

Array = NDArray[Any]
_NUMPY: Mapping[DType, Any] = {
    "fp32": np.float32,
    "bf16": np.uint16,
    "u8": np.uint8,
    "i32": np.int32,
}
POISON: Mapping[DType, int | float] = {"fp32": np.nan, "bf16": 0x7FC0, "u8": 0xAA, "i32": -(2**30)}
_NON_BLOCKING, _THREAD_LOCAL, _MOST_SHARED = 1, 1, 8
_SHARED_WITHOUT_REQUEST = 48 * 1024


class DriverError(Exception):
    """A call of the driver failed."""


class Card:
    """The first card: memory, machine code, and a stream.

    Args:
        library: the driver.
    """

    def __init__(self, library: str) -> None:
        self._driver = ctypes.CDLL(library)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        self._stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(self._stream), _NON_BLOCKING)
        self._functions: dict[str, ctypes.c_void_p] = {}

    def allocate(self, num_bytes: int) -> int:
        """Returns the address of new memory, which is kept until the process ends."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(num_bytes))
        return address.value

    def write(self, address: int, values: Array) -> None:
        """Copies an array to the card."""
        values = np.ascontiguousarray(values)
        self._call(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(address),
            ctypes.c_void_p(values.ctypes.data),
            ctypes.c_size_t(values.nbytes),
            self._stream,
        )
        self.synchronize()

    def read(self, address: int, dtype: Any, shape: tuple[int, ...]) -> Array:
        """Copies memory from the card."""
        values = np.empty(shape, dtype)
        self._call(
            "cuMemcpyDtoHAsync_v2",
            ctypes.c_void_p(values.ctypes.data),
            ctypes.c_uint64(address),
            ctypes.c_size_t(values.nbytes),
            self._stream,
        )
        self.synchronize()
        return values

    def launch(self, cubin: Cubin, grid: tuple[int, int, int], block: bytes) -> None:
        """Launches a kernel with a block of parameters."""
        size = ctypes.c_size_t(len(block))
        content = ctypes.create_string_buffer(block, len(block))
        # CU_LAUNCH_PARAM_BUFFER_POINTER, CU_LAUNCH_PARAM_BUFFER_SIZE, CU_LAUNCH_PARAM_END
        extra = (ctypes.c_void_p * 5)(1, ctypes.addressof(content), 2, ctypes.addressof(size), None)
        self._call(
            *("cuLaunchKernel", self._function(cubin), *map(ctypes.c_uint, grid)),
            *map(ctypes.c_uint, (cubin.num_threads, 1, 1, cubin.shared_bytes)),
            *(self._stream, None, extra),
        )

    def synchronize(self) -> None:
        """Waits until everything has run."""
        self._call("cuStreamSynchronize", self._stream)

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """Returns a function that runs, as one graph, what `enqueue` launches, and waits."""
        enqueue()  # Code is loaded before a capture, in which nothing may be.
        self.synchronize()
        graph, exec_ = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, _THREAD_LOCAL)
        enqueue()
        self._call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(exec_), graph, ctypes.c_ulonglong(0))
        self._call("cuGraphDestroy", graph)

        def replay() -> None:
            self._call("cuGraphLaunch", exec_, self._stream)
            self.synchronize()

        return replay

    def _function(self, cubin: Cubin) -> ctypes.c_void_p:
        """The loaded kernel."""
        known = self._functions.get(cubin.sha256)
        if known is not None:
            return known
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(cubin.read()))
        symbol = ctypes.c_char_p(cubin.symbol.encode())
        self._call("cuModuleGetFunction", ctypes.byref(function), module, symbol)
        if cubin.shared_bytes > _SHARED_WITHOUT_REQUEST:
            self._call("cuFuncSetAttribute", function, _MOST_SHARED, cubin.shared_bytes)
        self._functions[cubin.sha256] = function
        return function

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorName(code, ctypes.byref(text))
            raise DriverError(f"{name}: {(text.value or b'error %d' % code).decode()}")


class LoadedPlan:
    """A plan with memory of its own, each buffer apart; what is not given is poisoned.

    Args:
        card: where it runs.
        plan: the plan.
        cubins: its machine code.
        inputs: the values of its inputs, by name.
        read: gives the tensors that its constants are made from.
    """

    def __init__(
        self,
        card: Card,
        plan: LaunchPlan,
        cubins: Cubins,
        inputs: Mapping[str, Array],
        read: Read | None = None,
    ) -> None:
        self.card, self.plan, self._cubins = card, plan, cubins
        self._addresses: dict[str, int] = {}

        def value(item: tuple[str, Buffer]) -> Array:
            name, buffer = item
            if buffer.recipe is not None:
                assert read is not None, f"{plan.name}: constants need tensors"
                return evaluate(buffer.recipe, "bf16" if buffer.dtype == "bf16" else "fp32", read)
            if buffer.role == "input":
                return as_stored(inputs[name], buffer.dtype)
            return np.full(buffer.shape, POISON[buffer.dtype], _NUMPY[buffer.dtype])

        # A few at a time, so that host memory does not hold all constants.
        with ThreadPoolExecutor(4) as pool:
            items = list(plan.buffers.items())
            for begin in range(0, len(items), 8):
                some = items[begin : begin + 8]
                for (name, buffer), values in zip(some, pool.map(value, some), strict=True):
                    assert values.size == buffer.size, f"{name}: {values.shape}, {buffer.shape}"
                    self._addresses[name] = card.allocate(max(buffer.num_bytes, 1))
                    card.write(self._addresses[name], values)

    def run(self, launches: Iterable[Launch]) -> None:
        """Launches, without waiting."""
        for launch in launches:
            wanted = specialise(self.plan, launch)
            self.card.launch(self._cubins.cubin(wanted), launch.grid, self._block(launch))

    def value(self, name: str) -> Array:
        """The content of a buffer; bfloat16 as float32."""
        buffer = self.plan.buffers[name]
        values = self.card.read(self._addresses[name], _NUMPY[buffer.dtype], buffer.shape)
        return as_float32(values) if buffer.dtype == "bf16" else values

    def poison(self, names: Iterable[str]) -> None:
        """Makes the content of buffers NaN, or a value that nobody expects."""
        for name in names:
            buffer = self.plan.buffers[name]
            values = np.full(buffer.shape, POISON[buffer.dtype], _NUMPY[buffer.dtype])
            self.card.write(self._addresses[name], values)

    def _block(self, launch: Launch) -> bytes:
        """Packs parameters as C does, with the addresses of no scratch memory behind them."""
        codes, values = "@", []
        for argument in launch.arguments:
            if isinstance(argument, Pointer):
                item = ITEM_BYTES[self.plan.buffers[argument.buffer].dtype]
                codes += "Q"
                values.append(self._addresses[argument.buffer] + argument.offset * item)
            else:
                codes += "i" if isinstance(argument, int) else "f"
                values.append(argument)
        return struct.pack(f"{codes}QQ", *values, 0, 0)


def as_stored(values: Array, dtype: DType) -> Array:
    """Converts to what memory of a type holds."""
    if dtype == "bf16" and values.dtype != np.uint16:
        return as_bfloat16(np.asarray(values, np.float32))
    return np.asarray(values, _NUMPY[dtype])
