"""What a kernel is compiled for: the values and types that are fixed in its machine code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from ..plan import ITEM_BYTES, Argument, Launch, LaunchPlan, Pointer
from .kernel_sources import KERNELS, kernel_sources

ALIGNMENT = 16
"""A multiple of this lets Triton move 16 bytes at a time. The player puts every buffer at one."""

_ADDRESS_BYTES, _NUMBER_BYTES = 8, 4
_SCRATCH_POINTERS = 2  # global_scratch and profile_scratch: always there, null for our kernels


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter of the machine code.

    Attributes:
        type: as Triton spells it: '*bf16', 'i32', 'fp32'.
        is_aligned: whether every value is a multiple of 16.
    """

    type: str
    is_aligned: bool = False

    @property
    def num_bytes(self) -> int:
        """The size in the parameter block."""
        return _ADDRESS_BYTES if self.type.startswith("*") else _NUMBER_BYTES


@dataclass(frozen=True, kw_only=True)
class Specialisation:
    """One kernel with everything that its machine code depends on, besides the architecture.

    Attributes:
        kernel: its name.
        constants: the value of each constant parameter, by name.
        parameters: the others, in order.
        num_warps: per program.
        num_stages: of the pipelined loop.
    """

    kernel: str
    constants: Mapping[str, int | bool]
    parameters: tuple[Parameter, ...]
    num_warps: int
    num_stages: int

    @cached_property
    def key(self) -> str:
        """A text that is different for every other specialisation, and the same everywhere."""
        types = [f"{one.type}{'/16' * one.is_aligned}" for one in self.parameters]
        constants = [f"{name}={int(value)}" for name, value in sorted(self.constants.items())]
        return (
            f"{self.kernel}({', '.join(types)}) {' '.join(constants)} "
            f"warps={self.num_warps} stages={self.num_stages}"
        )

    @cached_property
    def parameter_table(self) -> tuple[tuple[int, int], ...]:
        """Offset and size of each parameter in the block that a launch passes, scratch included."""
        sizes = [one.num_bytes for one in self.parameters] + [_ADDRESS_BYTES] * _SCRATCH_POINTERS
        table: list[tuple[int, int]] = []
        end = 0
        for size in sizes:
            offset = -(-end // size) * size
            table.append((offset, size))
            end = offset + size
        return tuple(table)


def specialise(plan: LaunchPlan, launch: Launch, package: str = KERNELS) -> Specialisation:
    """Returns what the kernel of a launch has to be compiled for.

    No number is compiled in as a constant, not even 1 as Triton's own launcher does, so that one
    kernel serves every number of cameras and tokens.
    """
    source = kernel_sources(package)[launch.kernel]
    names = f"{launch.kernel}({', '.join(source.parameters)})"
    assert len(launch.arguments) == len(source.parameters), (
        f"{names}: {len(launch.arguments)} arguments"
    )
    assert set(launch.constants) == set(source.constants), (
        f"{launch.kernel}: expected the constants {source.constants}, got {[*launch.constants]}"
    )
    given = zip(source.parameters, launch.arguments, strict=True)
    return Specialisation(
        kernel=launch.kernel,
        constants=dict(launch.constants),
        parameters=tuple(
            _parameter(plan, argument, may_align=name not in source.not_specialized)
            for name, argument in given
        ),
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
    )


def specialisations(
    plans: Iterable[LaunchPlan], package: str = KERNELS
) -> Iterator[Specialisation]:
    """Yields what the launches of plans need, each once, in the order of their first launch."""
    seen: set[str] = set()
    for plan in plans:
        for launch in plan.launches:
            found = specialise(plan, launch, package)
            if found.key not in seen:
                seen.add(found.key)
                yield found


def _parameter(plan: LaunchPlan, argument: Argument, *, may_align: bool) -> Parameter:
    if isinstance(argument, Pointer):
        dtype = plan.buffers[argument.buffer].dtype
        is_aligned = argument.offset * ITEM_BYTES[dtype] % ALIGNMENT == 0
        return Parameter(type=f"*{dtype}", is_aligned=is_aligned and may_align)
    if isinstance(argument, float):
        return Parameter(type="fp32")
    return Parameter(type="i32", is_aligned=argument % ALIGNMENT == 0 and may_align)
