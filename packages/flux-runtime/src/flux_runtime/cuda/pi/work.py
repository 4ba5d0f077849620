"""What each launch reads, writes and computes, without running it.

`check_plan` finds launches that leave their memory or read what nothing has written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..plan import Launch, LaunchPlan, Pointer, Role


@dataclass(frozen=True, kw_only=True)
class Span:
    """Elements `begin` to `end` of a buffer."""

    buffer: str
    begin: int
    end: int

    def __str__(self) -> str:
        return f"{self.buffer}[{self.begin}:{self.end}]"

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.end - self.begin

    def overlaps(self, other: Span) -> bool:
        """Whether an element is in both."""
        is_near = self.begin < other.end and other.begin < self.end
        return is_near and self.buffer == other.buffer


@dataclass(frozen=True, kw_only=True)
class LaunchWork:
    """What a launch does.

    Attributes:
        reads, writes: the memory, in the order of the kernel's parameters. A span may have holes
            that are not touched; what a launch does not use has an empty one.
        operations: multiplications and additions of products.
    """

    reads: tuple[Span, ...]
    writes: tuple[Span, ...]
    operations: int


Numbers = tuple[tuple[Any, int], ...]
"""Pointers with the number of elements from there on."""


def work_of(launch: Launch) -> LaunchWork:
    """Returns what a launch reads, writes and computes."""
    columns, rows = launch.grid[1], launch.grid[0]
    pictures = launch.grid[2] // launch.constants.get("SPLITS", 1)
    by_grid = {"PICTURES": pictures, "KEY_HEADS": columns, "ROWS": rows}
    constants = {**launch.constants, **by_grid}
    reads, writes, operations = _KERNELS[launch.kernel](constants, *launch.arguments)
    return LaunchWork(
        reads=tuple(_span(pointer, count) for pointer, count in reads),
        writes=tuple(_span(pointer, count) for pointer, count in writes),
        operations=operations,
    )


def check_plan(plan: LaunchPlan) -> list[str]:
    """Returns the faults of a plan, one line each.

    A fault is memory that a launch leaves, a constant or an input that it writes, work memory that
    it reads and no launch before it has written, a result that nothing reads, a result that the
    same kernel has read before in the same place (some launch is missing or reads old values), and
    memory that a launch reads and writes, unless each program reads only what it writes itself.
    """
    memory = {name: _Written(buffer.role) for name, buffer in plan.buffers.items()}
    faults: list[str] = []
    for number, launch in enumerate(plan.launches):
        work, where = work_of(launch), f"launch {number} ({launch.stage}, {launch.kernel})"
        for verb, spans in (("reads", work.reads), ("writes", work.writes)):
            for span in spans:
                size = plan.buffers[span.buffer].size
                if span.begin < 0 or span.end > size:
                    faults.append(f"{where} {verb} {span}, which has {size} elements")
        for place, span in enumerate(work.reads):
            reader = (launch.stage, launch.kernel, place)
            faults += [f"{where} {fault}" for fault in memory[span.buffer].read(span, reader)]
            faults += [
                f"{where} reads {span} and writes {other}"
                for other in work.writes
                if span.size and other.size and span.overlaps(other)
                if span != other or place != _IN_PLACE.get(launch.kernel)
            ]
        for span in work.writes:
            faults += [f"{where} {fault}" for fault in memory[span.buffer].write(span)]
    for name, written in memory.items():
        whole = Span(buffer=name, begin=0, end=plan.buffers[name].size)
        if plan.buffers[name].role == "output":
            faults += [f"the player {fault}" for fault in written.read(whole, ("", "", 0))]
        faults += [f"{span} is written and never read" for span in written.unread]
    return faults


class _Written:
    """What is known of a buffer at some place of a plan."""

    def __init__(self, role: Role) -> None:
        self._role: Role = role
        self._spans: list[tuple[int, int]] = []
        self._readers: dict[tuple[str, str, int], Span] = {}
        self.unread: list[Span] = []

    def read(self, span: Span, reader: tuple[str, str, int]) -> Iterator[str]:
        """Yields what is wrong with reading: stage, kernel, and place among what it reads."""
        if self._role in ("input", "constant") or not span.size:
            return
        if reader in self._readers:
            yield f"reads {span} again, which nothing has written since"
        self._readers[reader] = span
        if not any(begin <= span.begin and span.end <= end for begin, end in self._spans):
            yield f"reads {span}, which is not written yet"
        self.unread = [other for other in self.unread if not span.overlaps(other)]

    def write(self, span: Span) -> Iterator[str]:
        """Yields what is wrong with writing."""
        if not span.size:
            return
        if self._role in ("input", "constant"):
            yield f"writes {span}, whose role is {self._role}"
        lost = [other for other in self.unread if span.overlaps(other)]
        if lost:
            yield f"writes {span}, but nothing has read what was there"
        self.unread = [other for other in self.unread if other not in lost] + [span]
        self._readers = {
            reader: other for reader, other in self._readers.items() if not span.overlaps(other)
        }
        merged: list[tuple[int, int]] = []
        for begin, end in sorted([*self._spans, (span.begin, span.end)]):
            if merged and begin <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((begin, end))
        self._spans = merged


def _span(pointer: Pointer, count: int) -> Span:
    return Span(buffer=pointer.buffer, begin=pointer.offset, end=pointer.offset + count)


Constants = Mapping[str, int]
"""A launch's constants, and the numbers that only its grid has: PICTURES, KEY_HEADS, ROWS."""
Found = tuple[Numbers, Numbers, int]


def _linear(
    constants: Constants, x: Any, weight: Any, bias: Any, sums: Any, gate: Any, residual: Any,
    out: Any, num_known: Any, m: int, n: int, k: int, time_row: int, _: float,
) -> Found:  # fmt: skip
    times = time_row + 1
    reads = (
        *((x, m * k), (weight, n * k), (num_known, 1)),
        (bias, (0, n, times * n)[constants["BIAS"]]),
        (sums, n if constants["LAYER_NORM"] else 0),
        (gate, times * n if constants["RESIDUAL"] == 2 else 0),
        (residual, m * n if constants["RESIDUAL"] else 0),
    )
    return reads, ((out, m * n),), 2 * m * n * k


def _geglu(
    constants: Constants, x: Any, gate: Any, up: Any, scale: Any, gate_bias: Any, up_bias: Any,
    out: Any, num_known: Any, m: int, n: int, k: int, time_row: int, _: float,
) -> Found:  # fmt: skip
    times = time_row + 1 if constants["ADAPTIVE"] else 0
    tables = ((scale, times * k), (gate_bias, times * n), (up_bias, times * n))
    reads = ((x, m * k), (gate, n * k), (up, n * k), (num_known, 1), *tables)
    return reads, ((out, m * n),), 4 * m * n * k


def _euler(
    constants: Constants, x: Any, weight: Any, scale: Any, bias: Any, x_t: Any, out: Any,
    num_known: Any, m: int, n: int, k: int, time_row: int, *_: float,
) -> Found:  # fmt: skip
    times = time_row + 1 if constants["ADAPTIVE"] else 0
    tables = ((scale, times * k), (bias, times * n or n))
    reads = ((x, m * k), (weight, n * k), (num_known, 1), (x_t, m * n), *tables)
    return reads, ((out, m * n),), 2 * m * n * k


def _qkv_rope(
    constants: Constants, x: Any, weight: Any, scale: Any, bias: Any, angles: Any, queries: Any,
    keys: Any, values: Any, num_tokens: Any, num_known: Any, m: int, k: int, first_head: int,
    first_row: int, first_position: int, time_row: int, _: float,
) -> Found:  # fmt: skip
    heads, key_heads, dim = constants["HEADS"], constants["KV_HEADS"], constants["D"]
    rows = (heads + 2 * key_heads) * dim
    times = time_row + 1 if constants["ADAPTIVE"] else 0
    # Behind a prompt, the positions depend on its length, which is at most what `first_row` leaves.
    reads = (
        *((x, m * k), (weight, rows * k), (num_known, 1)),
        (num_tokens, 1 if constants["BEHIND_PROMPT"] else 0),
        (angles, ((first_row if constants["BEHIND_PROMPT"] else first_position) + m) * dim),
        *((scale, times * k), (bias, times * rows)),
    )
    width = key_heads * dim
    to = tuple(
        (Pointer(buffer=p.buffer, offset=p.offset + first_row * width), m * width)
        for p in (keys, values)
    )
    writes = ((queries, 0 if first_head else m * heads * dim), *to)
    return reads, writes, 2 * m * k * (rows - first_head * dim)


def _attention(
    constants: Constants, queries: Any, keys: Any, values: Any, out: Any, parts: Any,
    statistics: Any, num_tokens: Any, t: int, s: int, query_stride: int, key_stride: int,
    out_stride: int, *_: float,
) -> Found:  # fmt: skip
    splits, dim, pictures = constants["SPLITS"], constants["D"], constants["PICTURES"]
    key_width = constants["KEY_HEADS"] * dim
    width = key_width * constants["GROUP"]
    reads = (
        (queries, (pictures * t - 1) * query_stride + width),
        (keys, (pictures * s - 1) * key_stride + key_width),
        (values, (pictures * s - 1) * key_stride + key_width),
        (num_tokens, 1 if constants["MASKED"] else 0),
    )
    if splits == 1:
        writes: Numbers = ((out, (pictures * t - 1) * out_stride + width),)
    else:
        writes = ((parts, splits * t * width), (statistics, 2 * splits * t * width // dim))
    return reads, writes, 4 * pictures * t * s * width


def _combine(constants: Constants, parts: Any, statistics: Any, out: Any, rows: int) -> Found:
    splits, dim = constants["SPLITS"], constants["D"]
    reads = ((parts, splits * rows * dim), (statistics, 2 * splits * rows))
    return reads, ((out, rows * dim),), 0


def _patches(
    constants: Constants, images: Any, cameras: Any, scale: Any, offset: Any, weight: Any,
    table: Any, out: Any, n: int,
) -> Found:  # fmt: skip
    size, pictures, depth = constants["SIZE"], constants["PICTURES"], constants["PADDED_K"]
    patches = (size // constants["PATCH"]) ** 2
    reads = (
        *((images, pictures * size * size * 3), (cameras, pictures), (weight, n * depth)),
        *((scale, 3), (offset, 3), (table, patches * n)),
    )
    return reads, ((out, pictures * patches * n),), 2 * pictures * patches * n * depth


def _embed(constants: Constants, tokens: Any, table: Any, out: Any, n: int, _: float) -> Found:
    rows = constants["ROWS"]
    # Which rows of the table are read depends on the tokens.
    return ((tokens, rows), (table, rows * n)), ((out, rows * n),), 0


def _start(_: Constants, noise: Any, known: Any, num_known: Any, x_t: Any, m: int, n: int) -> Found:
    return ((noise, m * n), (known, m * n), (num_known, 1)), ((x_t, m * n),), 0


_IN_PLACE: Mapping[str, int] = {"linear": 6, "euler": 3}
"""Kernel -> the place of its residual or x_t among what it reads, which may be its result."""
_KERNELS: Mapping[str, Callable[..., Found]] = {
    "linear": _linear,
    "geglu": _geglu,
    "euler": _euler,
    "qkv_rope": _qkv_rope,
    "attention": _attention,
    "combine": _combine,
    "patches": _patches,
    "embed": _embed,
    "start": _start,
}
