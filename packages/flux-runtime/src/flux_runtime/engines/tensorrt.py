"""TensorRT's own runtime: an inference captured as one CUDA graph, which the C++ core launches.

Python builds everything once, before the first tick: plans, execution contexts, memory, and the
graph that copies the inputs in, runs the prefix and all Euler steps, and copies the actions out. An
inference then involves neither Python nor TensorRT: the core writes the inputs, launches the graph,
waits, and reads the actions.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from flux_core.bundle import ITEM_BYTES, Bundle, TensorSignature
from flux_core.errors import BundleError

from . import nvidia
from .core import load_core
from .cuda_driver import CudaDriver
from .graph_inputs import user_inputs
from .tensorrt_plans import import_tensorrt, open_plans, started

if TYPE_CHECKING:
    from .. import _core


def open_captured_policy(bundle: Bundle) -> _core.CapturedPolicy:
    """Builds a bundle's plans, or finds them in the cache, and captures its inference.

    Raises:
        BundleError: TensorRT rejects a graph.
        MissingDependencyError: the card, its driver or the package is missing, or the card's memory
            is full.
    """
    trt = import_tensorrt()
    plans = open_plans(bundle, trt, nvidia.read_card())
    resources = ExitStack()
    with ExitStack() as on_error:
        on_error.callback(resources.close)
        captured = CapturedInference(bundle, plans, trt, CudaDriver(resources), resources)
        on_error.pop_all()
    return load_core().CapturedPolicy(**captured.arguments())


class CapturedInference:
    """Owns everything that a captured inference uses, and releases it when it is no longer used."""

    def __init__(
        self,
        bundle: Bundle,
        plans: Mapping[str, bytes],
        trt: Any,
        driver: CudaDriver,
        resources: ExitStack,
    ) -> None:
        """Runs the inference once, which TensorRT requires before a capture, and then captures it.

        Args:
            bundle: an opened bundle.
            plans: the plans of 'prefix' and 'denoise'.
            trt: the package `tensorrt`.
            driver: a driver whose context is current in this thread.
            resources: closes everything that is acquired here.
        """
        self._manifest = bundle.manifest
        self._driver = driver
        self._inputs = user_inputs(bundle.manifest)
        denoise = {tensor.name: tensor for tensor in bundle.manifest.graphs["denoise"].inputs}
        self._x, self._t = denoise["x_t"], denoise["t"]
        self._allocate()
        self._contexts = _open_contexts(bundle, plans, trt, resources)
        self._bind()
        self._enqueue()
        driver.synchronize()
        self._graph = driver.capture(self._enqueue)
        resources.callback(driver.make_current)  # the thread that releases this may be another one
        weakref.finalize(self, resources.close)

    def arguments(self) -> dict[str, Any]:
        """Returns the arguments of `_core.CapturedPolicy`."""
        return {
            "driver": self._driver.library,
            "context": self._driver.context,
            "stream": self._driver.stream,
            "graph": self._graph,
            "inputs": {
                name: (tensor.dtype, tuple(tensor.shape), self._host[name])
                for name, tensor in self._inputs.items()
            },
            "noise": self._host["noise"],
            "actions": self._host["actions"],
            "action_shape": tuple(self._x.shape[1:]),
            "owner": self,
        }

    def _allocate(self) -> None:
        driver = self._driver
        self._host = {name: driver.host_memory(_bytes(t)) for name, t in self._inputs.items()}
        self._host |= {name: driver.host_memory(_bytes(self._x)) for name in ("noise", "actions")}
        self._host["ones"] = driver.host_memory(_bytes(self._t))
        ones = (ctypes.c_float * math.prod(self._t.shape)).from_address(self._host["ones"])
        ones[:] = [1.0] * len(ones)
        between = self._manifest.graphs["prefix"].outputs
        tensors = {**self._inputs, **{tensor.name: tensor for tensor in between}}
        self._device = {name: driver.device_memory(_bytes(t)) for name, t in tensors.items()}
        self._halves = [
            (driver.device_memory(_bytes(self._x)), driver.device_memory(_bytes(self._t)))
            for _ in range(2)
        ]

    def _enqueue(self) -> None:
        """Enqueues one inference; x_t and t alternate between two buffers each."""
        driver, steps = self._driver, self._manifest.num_inference_steps
        for name, tensor in self._inputs.items():
            driver.copy_to_device(self._device[name], self._host[name], _bytes(tensor))
        x, t = self._halves[0]
        driver.copy_to_device(x, self._host["noise"], _bytes(self._x))
        driver.copy_to_device(t, self._host["ones"], _bytes(self._t))
        self._execute("prefix", 0)
        for step in range(steps):
            self._execute("denoise", step % 2)
        driver.copy_to_host(self._host["actions"], self._halves[steps % 2][0], _bytes(self._x))

    def _bind(self) -> None:
        """Binds every context to its memory once; the capture and all launches use the same."""
        self._bind_context("prefix", 0, self._device)
        for half in range(2):
            (x, t), (x_next, t_next) = self._halves[half], self._halves[1 - half]
            under_way = {"x_t": x, "t": t, "x_next": x_next, "t_next": t_next}
            self._bind_context("denoise", half, self._device | under_way)

    def _bind_context(self, graph: str, number: int, addresses: Mapping[str, int]) -> None:
        context, signature = self._contexts[graph][number], self._manifest.graphs[graph]
        for tensor in (*signature.inputs, *signature.outputs):
            if not context.set_tensor_address(tensor.name, addresses[tensor.name]):
                raise _refusal(signature.file, f"the memory of {tensor.name}")

    def _execute(self, graph: str, number: int) -> None:
        if not self._contexts[graph][number].execute_async_v3(self._driver.stream):
            raise _refusal(self._manifest.graphs[graph].file, "the run")


def _open_contexts(
    bundle: Bundle, plans: Mapping[str, bytes], trt: Any, resources: ExitStack
) -> dict[str, list[Any]]:
    """Opens one context for the prefix, and two for the step, one per buffer of x_t and t."""
    runtime = started(trt.Runtime, trt.Logger(trt.Logger.ERROR))
    parents, contexts = [runtime], {}
    resources.callback(parents.clear)
    resources.callback(contexts.clear)
    for name, plan in plans.items():
        engine = runtime.deserialize_cuda_engine(plan)
        number = 2 if name == "denoise" else 1
        made = [engine and engine.create_execution_context() for _ in range(number)]
        if not all(made):
            raise BundleError(
                f"{bundle.manifest.graphs[name].file}: TensorRT cannot open the plan that it has "
                f"built. Remove {bundle.directory}.engines, and check with nvidia-smi that the "
                f"card has free memory."
            )
        parents.append(engine)
        contexts[name] = made
    return contexts


def _bytes(tensor: TensorSignature) -> int:
    return math.prod(tensor.shape) * ITEM_BYTES[tensor.dtype]


def _refusal(file: str, what: str) -> BundleError:
    return BundleError(f"{file}: TensorRT rejects {what}. Use another engine.")
