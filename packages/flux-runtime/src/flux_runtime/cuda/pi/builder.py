"""Builds a plan, launch by launch, and checks its parts as they are added."""

from __future__ import annotations

from collections.abc import Mapping

from ..plan import Argument, Buffer, DType, Launch, LaunchPlan, Pointer, Role
from ..recipes import Recipe
from ..tiles import Tiles, tiles_for


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


class PlanBuilder:
    """The buffers and launches of a plan that is being made.

    Attributes:
        arch: the card's architecture; '' is the interpreter.
        dtype: of streams and weights.
    """

    def __init__(self, arch: str, dtype: DType) -> None:
        self.arch = arch
        self.dtype: DType = dtype
        self._buffers: dict[str, Buffer] = {}
        self._launches: list[Launch] = []

    def buffer(self, name: str, role: Role, dtype: DType, *shape: int) -> Pointer:
        """Adds memory and returns its address."""
        return self._add(name, Buffer(dtype=dtype, shape=shape, role=role))

    def work(self, name: str, *shape: int, dtype: DType | None = None) -> Pointer:
        """Adds work memory, of the streams' type by default."""
        return self.buffer(name, "work", dtype or self.dtype, *shape)

    def constant(
        self, name: str, recipe: Recipe, *shape: int, dtype: DType | None = None
    ) -> Pointer:
        """Adds a constant, of the streams' type by default."""
        buffer = Buffer(dtype=dtype or self.dtype, shape=shape, role="constant", recipe=recipe)
        return self._add(name, buffer)

    def shape(self, pointer: Pointer) -> tuple[int, ...]:
        """The shape of the memory that an address is in."""
        return self._buffers[pointer.buffer].shape

    def dtype_of(self, pointer: Pointer) -> DType:
        """The type of what an address points to."""
        return self._buffers[pointer.buffer].dtype

    def tiles(
        self,
        kernel: str,
        rows: int,
        columns: int = 0,
        depth: int = 0,
        weight: Pointer | None = None,
    ) -> Tiles:
        """The tiles of a kernel for a problem; `weight` has the type of the products."""
        dtype = self.dtype if weight is None else self.dtype_of(weight)
        return tiles_for(kernel, self.arch, rows=rows, columns=columns, depth=depth, dtype=dtype)

    def launch(
        self,
        stage: str,
        kernel: str,
        arguments: tuple[Argument, ...],
        grid: tuple[int, int, int],
        tiles: Tiles,
        constants: Mapping[str, int | bool],
    ) -> None:
        """Adds a launch. `constants` are those besides the tiles."""
        self._launches.append(
            Launch(
                stage=stage,
                kernel=kernel,
                arguments=arguments,
                constants={**constants, **tiles.constants},
                grid=grid,
                num_warps=tiles.num_warps,
                num_stages=tiles.num_stages,
            )
        )

    def plan(self, name: str) -> LaunchPlan:
        """Returns what was added."""
        return LaunchPlan(name=name, buffers=dict(self._buffers), launches=tuple(self._launches))

    def _add(self, name: str, buffer: Buffer) -> Pointer:
        known = self._buffers.setdefault(name, buffer)
        assert known == buffer, f"{name}: two different buffers"
        return Pointer(buffer=name)


def at(pointer: Pointer, elements: int) -> Pointer:
    """The address so many elements further on."""
    return Pointer(buffer=pointer.buffer, offset=pointer.offset + elements)
