"""A launch plan: what a card does for one inference, as plain data.

A plan names its memory and lists its launches in order. It holds no weights: the constants among
its buffers say how they come from the tensors of a bundle. The same plan runs in Triton's
interpreter, on a driver that only records, and on a card, where it is captured as one CUDA graph.

Shapes are in elements, offsets of pointers too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .recipes import Recipe

DType = Literal["fp32", "bf16", "u8", "i32"]
"""Named as Triton names them."""
Role = Literal["input", "constant", "work", "output"]

ITEM_BYTES: Mapping[DType, int] = {"fp32": 4, "bf16": 2, "u8": 1, "i32": 4}


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """A piece of the card's memory.

    Attributes:
        dtype: of its elements.
        shape: for people; the memory is contiguous.
        role: who fills it: the player before a launch, the player once, or kernels. `output` is
            what the player reads.
        recipe: how a constant comes from the bundle's tensors; None for every other role.
    """

    dtype: DType
    shape: tuple[int, ...]
    role: Role
    recipe: Recipe | None = None

    @property
    def size(self) -> int:
        """Its number of elements."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """The size of its memory."""
        return self.size * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """The address of an element, counted from the beginning of a buffer."""

    buffer: str
    offset: int = 0


Argument = Pointer | int | float
"""What a kernel is given: an address, an int32 or a float32."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One launch of a kernel.

    Attributes:
        stage: what it belongs to, such as 'vision', 'prefix' or 'steps'.
        kernel: the kernel's name.
        arguments: of the parameters that are not constants, in the kernel's order.
        constants: the value of every constant parameter, tiles included, by name.
        grid: the number of programs along three axes.
        num_warps: per program.
        num_stages: of the pipelined loop.
    """

    stage: str
    kernel: str
    arguments: tuple[Argument, ...]
    constants: Mapping[str, int | bool]
    grid: tuple[int, int, int]
    num_warps: int = 4
    num_stages: int = 3


@dataclass(frozen=True, kw_only=True)
class LaunchPlan:
    """One inference: prefix and all Euler steps.

    Attributes:
        name: of the variant, such as '3 cameras, 48 tokens'.
        buffers: all memory, by name. Buffers of one name in the plans of one policy are the same
            memory, as large as the largest of them.
        launches: in order; each reads what the ones before it have written.
    """

    name: str
    buffers: Mapping[str, Buffer]
    launches: tuple[Launch, ...]
