"""Plays plans on an NVIDIA card: the engine `cuda`.

Python prepares everything once, before the first tick: it plans, finds the machine code, computes
the constants one at a time, and hands all of it to the C++ core, which captures one CUDA graph per
variant. An inference then involves no Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from flux_core.bundle import Bundle, Manifest
from flux_core.policy_io import PolicyIO

from .cubins import Cubin, Cubins, Specialisation, specialise
from .pi import StoredTensors, describe_bundle, make_plan
from .plan import ITEM_BYTES, Argument, Buffer, Launch, LaunchPlan, Pointer
from .recipes import evaluate
from .variants import variants

if TYPE_CHECKING:
    from .. import _core

LIBRARY = "libcuda.so.1"
LAST_INPUT = "images"
"""With fewer cameras, the end of the input block is not copied to the card."""

Variant = tuple[int, int]
"""Number of present cameras and of prompt tokens."""


class KernelStore(Protocol):
    """Where the machine code of kernels is found."""

    def cubin(self, wanted: Specialisation) -> Cubin:
        """Returns the machine code of a specialisation."""
        ...


@dataclass(frozen=True, kw_only=True)
class Program:
    """All plans of a policy, with what they need.

    Attributes:
        plans: by variant.
        arch: the architecture of the machine code.
        kernels: where it is found.
        read: returns a tensor of the bundle by its name.
        inputs: of an inference, name -> (numpy type name, shape).
        action_shape: (H, A).
        vocabulary_size: number of token ids.
        specialise: what a launch of a plan has to be compiled for.
    """

    plans: Mapping[Variant, LaunchPlan]
    arch: str
    kernels: KernelStore
    read: Callable[[str], NDArray[Any]]
    inputs: Mapping[str, tuple[str, tuple[int, ...]]]
    action_shape: tuple[int, int]
    vocabulary_size: int
    specialise: Callable[[LaunchPlan, Launch], Specialisation] = specialise


def open_cuda_policy(
    bundle: Bundle, cubins: Cubins, core: ModuleType, library: str = LIBRARY
) -> _core.CapturedPolicy:
    """Puts a bundle that `support.refusal` accepts on the card.

    Args:
        bundle: an opened bundle.
        cubins: for the card's architecture.
        core: the module `flux_runtime._core`.
        library: the driver's.

    Raises:
        MissingDependencyError: a kernel was not built, or is damaged.
        RuntimeError: the card cannot run it; see `_core.CudaPlayer`.
        ValueError: likewise.
    """
    return play(plan_bundle(bundle, cubins), core, library)


def plan_bundle(bundle: Bundle, cubins: Cubins) -> Program:
    """Plans every number of cameras and every prompt bucket of a bundle."""
    manifest, tensors = bundle.manifest, StoredTensors(bundle.directory)
    description = describe_bundle(bundle, tensors, PolicyIO.from_bundle(bundle))
    arch = cubins.architecture.name
    inputs = user_inputs(manifest)
    num_cameras = inputs["image_masks"][1][1]
    return Program(
        plans={
            variant: make_plan(description, *variant, arch=arch)
            for variant in variants(num_cameras, manifest.max_prompt_tokens)
        },
        arch=arch,
        kernels=cubins,
        read=tensors.read,
        inputs=inputs,
        action_shape=(description.horizon, description.action_dim),
        vocabulary_size=description.vocabulary,
    )


def user_inputs(manifest: Manifest) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Returns the inputs of a bundle's graphs that come from an observation."""
    prefix, denoise = manifest.graphs["prefix"], manifest.graphs["denoise"]
    internal = {"x_t", "t", *(tensor.name for tensor in prefix.outputs)}
    return {
        tensor.name: (tensor.dtype, tuple(tensor.shape))
        for tensor in (*prefix.inputs, *denoise.inputs)
        if tensor.name not in internal
    }


def play(program: Program, core: ModuleType, library: str = LIBRARY) -> _core.CapturedPolicy:
    """Loads, uploads and captures a program.

    Raises:
        RuntimeError: the card cannot run it; see `_core.CudaPlayer`.
        ValueError: likewise.
    """
    buffers = merged_buffers(program.plans.values())
    numbers = {name: number for number, name in enumerate(buffers)}
    kernels = _Kernels(program)
    launches = {
        variant: [
            (launch.stage, kernels.number(plan, launch), launch.grid,
             [_argument(argument, plan, numbers) for argument in launch.arguments])
            for launch in plan.launches
        ]
        for variant, plan in program.plans.items()
    }  # fmt: skip
    player: _core.CudaPlayer = core.CudaPlayer(
        library=library,
        architecture=program.arch,
        kernels=kernels.loaded,
        buffers=[(name, buffer.num_bytes, buffer.role) for name, buffer in buffers.items()],
    )
    try:
        for name, buffer in buffers.items():
            if buffer.recipe is not None:
                dtype = "bf16" if buffer.dtype == "bf16" else "fp32"
                player.upload(name, evaluate(buffer.recipe, dtype, program.read))
        for variant, plan in program.plans.items():
            last = plan.buffers.get(LAST_INPUT)
            num_input_bytes = player.input_offset(LAST_INPUT) + (last.num_bytes if last else 0)
            player.capture(*variant, launches[variant], num_input_bytes=num_input_bytes)
        return player.policy(
            program.inputs,
            action_shape=program.action_shape,
            vocabulary_size=program.vocabulary_size,
        )
    finally:
        # A traceback keeps this frame; the card's memory must not wait until it is dropped.
        del player


def merged_buffers(plans: Iterable[LaunchPlan]) -> dict[str, Buffer]:
    """Returns the memory of several plans: each buffer as large as its largest, `images` last."""
    merged: dict[str, Buffer] = {}
    for plan in plans:
        for name, buffer in plan.buffers.items():
            known = merged.setdefault(name, buffer)
            same = replace(known, shape=buffer.shape)
            assert same == buffer, f"{plan.name}: {name}: expected {known}, got {buffer}"
            if buffer.num_bytes > known.num_bytes:
                merged[name] = buffer
    if LAST_INPUT in merged:
        merged[LAST_INPUT] = merged.pop(LAST_INPUT)
    return merged


def _argument(
    argument: Argument, plan: LaunchPlan, numbers: Mapping[str, int]
) -> tuple[int, int] | int | float:
    if not isinstance(argument, Pointer):
        return argument
    item = ITEM_BYTES[plan.buffers[argument.buffer].dtype]
    return numbers[argument.buffer], argument.offset * item


class _Kernels:
    """The machine code that launches need, each once."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._numbers: dict[str, int] = {}
        self.loaded: list[_core.CudaKernel] = []

    def number(self, plan: LaunchPlan, launch: Launch) -> int:
        wanted = self._program.specialise(plan, launch)
        if wanted.key not in self._numbers:
            found = self._program.kernels.cubin(wanted)
            self._numbers[wanted.key] = len(self.loaded)
            self.loaded.append(
                (
                    *(wanted.kernel, found.symbol, found.read(), found.num_threads),
                    *(found.shared_bytes, found.parameters),
                )
            )
        return self._numbers[wanted.key]
