"""What a plan costs: operations and bytes of each launch, and an estimate of its time on a card.

A launch takes as long as its programs, which run in waves over the card's processors, or as reading
and writing its memory once, whichever is longer, and then the time to the next launch. This is a
model: it knows nothing of caches, of two programs on one processor, or of the quality of the
compiled code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .cards import CardFigures
from .cubins.kernel_sources import KERNELS, kernel_sources
from .plan import ITEM_BYTES, DType, Launch, LaunchPlan, Pointer

_US = 1e6


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one launch does.

    Attributes:
        operations: additions and multiplications of its products, without padding.
        num_bytes: that it reads and writes, each once.
        program_operations: of one program, with padding.
        accumulators: numbers of a program's result, which tell how well it uses a processor.
        is_attention: whether a softmax lies between two products.
        has_tensor_cores: whether the products are in bfloat16.
    """

    operations: int = 0
    num_bytes: int = 0
    program_operations: int = 0
    accumulators: int = 1
    is_attention: bool = False
    has_tensor_cores: bool = True


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """The sum over the launches of a stage; `expected_ms` is an estimate."""

    launches: int
    operations: int
    num_bytes: int
    expected_ms: float


def stage_costs(
    plan: LaunchPlan, card: CardFigures, package: str = KERNELS
) -> dict[str, StageCost]:
    """Returns the cost of each stage on a card, in the order of the plan."""
    found: dict[str, StageCost] = {}
    for launch in plan.launches:
        cost = launch_cost(plan, launch, package)
        before = found.get(
            launch.stage, StageCost(launches=0, operations=0, num_bytes=0, expected_ms=0.0)
        )
        found[launch.stage] = StageCost(
            launches=before.launches + 1,
            operations=before.operations + cost.operations,
            num_bytes=before.num_bytes + cost.num_bytes,
            expected_ms=before.expected_ms + expected_us(launch, cost, card) / 1e3,
        )
    return found


def total(stages: Mapping[str, StageCost]) -> StageCost:
    """Returns the sum over all stages."""
    parts = stages.values()
    return StageCost(
        launches=sum(one.launches for one in parts),
        operations=sum(one.operations for one in parts),
        num_bytes=sum(one.num_bytes for one in parts),
        expected_ms=sum(one.expected_ms for one in parts),
    )


def expected_us(launch: Launch, cost: Cost, card: CardFigures) -> float:
    """Returns the estimated microseconds from a launch to the next one."""
    waves = math.ceil(math.prod(launch.grid) / card.processors)
    speed = (
        card.flops_per_s * _share(cost, card) if cost.has_tensor_cores else (card.fp32_flops_per_s)
    )
    programs = waves * cost.program_operations / (speed / card.processors)
    return max(programs, cost.num_bytes / card.bytes_per_s) * _US + card.launch_us


def _share(cost: Cost, card: CardFigures) -> float:
    """Small tiles load more for each product, and a softmax leaves the tensor cores waiting."""
    if cost.is_attention:
        return 0.5
    if cost.accumulators >= 128 * 128:
        return card.share
    return card.share * (0.85 if cost.accumulators >= 64 * 64 else 0.6)


def launch_cost(plan: LaunchPlan, launch: Launch, package: str = KERNELS) -> Cost:
    """Returns what a launch does."""
    names = kernel_sources(package)[launch.kernel].parameters
    return _COSTS[launch.kernel](_Call(plan, launch, names))


class _Call:
    """A launch with its arguments by name."""

    def __init__(self, plan: LaunchPlan, launch: Launch, names: tuple[str, ...]) -> None:
        self._plan, self._launch = plan, launch
        self._arguments = dict(zip(names, launch.arguments, strict=True))

    def number(self, name: str) -> int:
        """The value of an integer, which may be a constant."""
        found = self._launch.constants.get(name, self._arguments.get(name))
        assert isinstance(found, int), f"{self._launch.kernel}: {name} is {found}"
        return int(found)

    def dtype(self, name: str) -> DType:
        """The type that a pointer points to."""
        pointer = self._arguments[name]
        assert isinstance(pointer, Pointer), f"{self._launch.kernel}: {name} is no pointer"
        return self._plan.buffers[pointer.buffer].dtype

    def num_bytes(self, **elements: int) -> int:
        """The bytes of so many elements behind each pointer."""
        return sum(ITEM_BYTES[self.dtype(name)] * count for name, count in elements.items())

    @property
    def grid(self) -> tuple[int, int, int]:
        """The number of programs along each axis."""
        return self._launch.grid

    def product(
        self, rows: int, columns: int, depth: int, weight: str, *, num_bytes: int, width: int
    ) -> Cost:
        """A product whose programs accumulate BM x `width` numbers."""
        tile = self.number("BM") * width
        steps = math.ceil(depth / self.number("BK"))
        return Cost(
            operations=2 * rows * columns * depth,
            num_bytes=num_bytes,
            program_operations=2 * tile * steps * self.number("BK"),
            accumulators=tile,
            has_tensor_cores=self.dtype(weight) == "bf16",
        )


def _linear(call: _Call) -> Cost:
    m, n, k = (call.number(name) for name in "MNK")
    moved = call.num_bytes(x=m * k, weight=n * k, out=m * n)
    if call.number("RESIDUAL"):
        moved += call.num_bytes(residual=m * n)
    return call.product(m, n, k, "weight", num_bytes=moved, width=call.number("BN"))


def _geglu(call: _Call) -> Cost:
    m, n, k = (call.number(name) for name in "MNK")
    moved = call.num_bytes(x=m * k, gate_weight=n * k, up_weight=n * k, out=m * n)
    return call.product(m, 2 * n, k, "gate_weight", num_bytes=moved, width=2 * call.number("BN"))


def _euler(call: _Call) -> Cost:
    m, n, k = (call.number(name) for name in "MNK")
    moved = call.num_bytes(x=m * k, weight=n * k, x_t=m * n, out=m * n)
    return call.product(m, n, k, "weight", num_bytes=moved, width=call.number("BN"))


def _qkv_rope(call: _Call) -> Cost:
    m, k, width = call.number("M"), call.number("K"), 2 * call.number("BN")
    n = call.grid[1] * width
    moved = call.num_bytes(x=m * k, weight=n * k, queries=m * n)
    return call.product(m, n, k, "weight", num_bytes=moved, width=width)


def _patches(call: _Call) -> Cost:
    side = call.number("SIZE") // call.number("PATCH")
    m, n, k = call.grid[2] * side * side, call.number("N"), call.number("PADDED_K")
    pixels = call.grid[2] * 3 * call.number("SIZE") ** 2
    moved = call.num_bytes(images=pixels, weight=n * k, table=side * side * n, out=m * n)
    return call.product(m, n, k, "weight", num_bytes=moved, width=call.number("BN"))


def _attention(call: _Call) -> Cost:
    queries, keys, dim = call.number("T"), call.number("S"), call.number("D")
    splits, tile = call.number("SPLITS"), call.number("BN")
    heads, pictures = call.grid[1], call.grid[2] // splits
    rows = queries * call.number("GROUP") * heads * pictures
    moved = call.num_bytes(
        queries=rows * dim,
        keys=keys * heads * pictures * dim,
        values=keys * heads * pictures * dim,
        **({"out": rows * dim} if splits == 1 else {"parts": rows * dim * splits}),
    )
    per_program = math.ceil(keys / (splits * tile)) * tile
    padded = call.number("PADDED_D")
    return Cost(
        operations=4 * rows * keys * dim,
        num_bytes=moved,
        program_operations=4 * call.number("BM") * per_program * padded,
        accumulators=call.number("BM") * padded,
        is_attention=True,
        has_tensor_cores=call.dtype("keys") == "bf16",
    )


def _combine(call: _Call) -> Cost:
    elements = call.number("R") * call.number("D")
    return Cost(num_bytes=call.num_bytes(parts=elements * call.number("SPLITS"), out=elements))


def _embed(call: _Call) -> Cost:
    elements = call.grid[0] * call.number("N")
    return Cost(num_bytes=call.num_bytes(table=elements, out=elements))


def _start(call: _Call) -> Cost:
    elements = call.number("M") * call.number("N")
    return Cost(num_bytes=call.num_bytes(noise=elements, x_t=elements))


_COSTS: Mapping[str, Callable[[_Call], Cost]] = {
    "linear": _linear,
    "geglu": _geglu,
    "euler": _euler,
    "qkv_rope": _qkv_rope,
    "patches": _patches,
    "attention": _attention,
    "combine": _combine,
    "embed": _embed,
    "start": _start,
}
