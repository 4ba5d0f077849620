"""What a driver should be asked for, from the plans alone: an independent layout and packing."""

from __future__ import annotations

import struct
from typing import Any

from flux_runtime.cuda.plan import ITEM_BYTES, Launch, LaunchPlan, Pointer
from flux_runtime.cuda.player import Program

from .fake_card import FakeCard, KernelLaunch
from .toy_program import codes

ALIGNMENT = 256


def offsets_of(program: Program) -> dict[str, int]:
    """Where each buffer should be: inputs first, images last among them, 256 bytes apart."""
    return _layout(program)[0]


def memory_bytes_of(program: Program) -> int:
    """The size of the memory that holds all buffers."""
    return _layout(program)[1]


def _layout(program: Program) -> tuple[dict[str, int], int]:
    sizes: dict[str, tuple[bool, int]] = {}
    for plan in program.plans.values():
        for name, buffer in plan.buffers.items():
            _, known = sizes.get(name, (False, 0))
            sizes[name] = (buffer.role == "input", max(known, buffer.num_bytes))
    inputs = [name for name, (is_input, _) in sizes.items() if is_input and name != "images"]
    others = [name for name, (is_input, _) in sizes.items() if not is_input]
    offsets: dict[str, int] = {}
    end = 0
    for name in (*inputs, "images", *others):
        offsets[name] = end
        end += -(-sizes[name][1] // ALIGNMENT) * ALIGNMENT
    return offsets, end


def expected_launch(
    program: Program, plan: LaunchPlan, launch: Launch, base: int, *, is_captured: bool
) -> KernelLaunch:
    """A launch as the log should have it, packed by Python's `struct`."""
    cubins: Any = program.kernels
    wanted = program.specialise(plan, launch)
    (symbol,) = (name for name, made in cubins.made.items() if made.key == wanted.key)
    offsets = offsets_of(program)
    values: list[int | float] = []
    for argument in launch.arguments:
        if isinstance(argument, Pointer):
            item = ITEM_BYTES[plan.buffers[argument.buffer].dtype]
            values.append(base + offsets[argument.buffer] + argument.offset * item)
        else:
            values.append(argument)
    return KernelLaunch(
        symbol=symbol,
        grid=launch.grid,
        block=(32 * (launch.num_warps + 4), 1, 1),
        shared_bytes=cubins.shared_bytes.get(launch.kernel, 0),
        is_captured=is_captured,
        parameters=struct.pack(codes(wanted), *values, 0, 0),
    )


def assert_launches_are_those_of_the_plans(card: FakeCard, program: Program) -> None:
    """Compares the whole log of launches."""
    base, size = card.memory
    assert size == memory_bytes_of(program)
    expected = [
        expected_launch(program, plan, launch, base, is_captured=is_captured)
        for plan in program.plans.values()
        for is_captured in (False, True)
        for launch in plan.launches
    ]
    found = card.launches()
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one == other
