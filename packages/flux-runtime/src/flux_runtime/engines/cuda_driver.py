"""The few functions of NVIDIA's driver that are needed to capture an inference.

They are called through the driver's own library, so that no CUDA package is needed. Everything that
is acquired here is released by the `ExitStack` that the driver was opened with, in reverse order.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from flux_core.errors import MissingDependencyError

LIBRARY = "libcuda.so.1"
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL


class CudaDriver:
    """The first card's primary context, which the CUDA runtime shares, and one stream in it.

    Addresses and handles are integers.
    """

    def __init__(
        self, resources: ExitStack, library: str = LIBRARY, load: Callable[[str], Any] = ctypes.CDLL
    ) -> None:
        """Makes the context current in this thread.

        Raises:
            MissingDependencyError: there is no driver, or one of its calls fails.
        """
        self.library = library
        self._resources = resources
        try:
            self._driver = load(library)
        except OSError as error:
            raise MissingDependencyError(
                f"{library}: cannot be loaded ({error}). Install NVIDIA's driver."
            ) from error
        device = ctypes.c_int()
        self._call("cuInit", ctypes.c_uint(0))
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        self.context = self._new("cuDevicePrimaryCtxRetain", device)
        resources.callback(self._call, "cuDevicePrimaryCtxRelease_v2", device)
        self.make_current()
        self.stream = self._new("cuStreamCreate", ctypes.c_uint(_NON_BLOCKING))
        self._give_back("cuStreamDestroy_v2", self.stream)

    def make_current(self) -> None:
        """Makes the context current in this thread, as releasing anything requires."""
        self._call("cuCtxSetCurrent", ctypes.c_void_p(self.context))

    def device_memory(self, num_bytes: int) -> int:
        """Allocates memory on the card and returns its address."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(num_bytes))
        self._resources.callback(self._call, "cuMemFree_v2", ctypes.c_uint64(address.value))
        return address.value

    def host_memory(self, num_bytes: int) -> int:
        """Allocates zeroed, page-locked host memory, which a graph can copy from and to."""
        address = self._new("cuMemHostAlloc", ctypes.c_size_t(num_bytes), ctypes.c_uint(0))
        ctypes.memset(address, 0, num_bytes)
        self._give_back("cuMemFreeHost", address)
        return address

    def copy_to_device(self, device: int, host: int, num_bytes: int) -> None:
        """Copies in the stream."""
        self._call(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(device),
            ctypes.c_void_p(host),
            ctypes.c_size_t(num_bytes),
            ctypes.c_void_p(self.stream),
        )

    def copy_to_host(self, host: int, device: int, num_bytes: int) -> None:
        """Copies in the stream."""
        self._call(
            "cuMemcpyDtoHAsync_v2",
            ctypes.c_void_p(host),
            ctypes.c_uint64(device),
            ctypes.c_size_t(num_bytes),
            ctypes.c_void_p(self.stream),
        )

    def synchronize(self) -> None:
        """Waits until the stream has completed all its work."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def capture(self, enqueue: Callable[[], None]) -> int:
        """Captures the work that `enqueue` adds to the stream as a graph that can be launched."""
        stream = ctypes.c_void_p(self.stream)
        self._call("cuStreamBeginCapture_v2", stream, ctypes.c_int(_THREAD_LOCAL))
        graph = ctypes.c_void_p()
        try:
            enqueue()
        finally:
            # Always end the capture: a stream that is being captured accepts no other work.
            code = self._driver.cuStreamEndCapture(stream, ctypes.byref(graph))
        self._require_success("cuStreamEndCapture", code)
        try:
            launchable = self._new("cuGraphInstantiateWithFlags", graph, ctypes.c_uint64(0))
        finally:
            self._call("cuGraphDestroy", graph)
        self._give_back("cuGraphExecDestroy", launchable)
        return launchable

    def _new(self, function: str, *arguments: Any) -> int:
        """Calls a function that writes a handle or an address to its first argument."""
        handle = ctypes.c_void_p()
        self._call(function, ctypes.byref(handle), *arguments)
        assert handle.value is not None
        return handle.value

    def _give_back(self, function: str, handle: int) -> None:
        self._resources.callback(self._call, function, ctypes.c_void_p(handle))

    def _call(self, function: str, *arguments: Any) -> None:
        self._require_success(function, getattr(self._driver, function)(*arguments))

    def _require_success(self, function: str, code: int) -> None:
        if code == 0:
            return
        name = ctypes.c_char_p()
        self._driver.cuGetErrorName(ctypes.c_int(code), ctypes.byref(name))
        raise MissingDependencyError(
            f"{function}: expected success, got CUDA error {code} "
            f"({(name.value or b'no name').decode()}). See nvidia-smi: the card's memory may be "
            f"full, or it may need a newer driver."
        )
