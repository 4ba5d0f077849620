"""Two small plans with all inputs of a real one, whose kernels are Python functions."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_runtime.cuda.architectures import ARCHITECTURES, Architecture
from flux_runtime.cuda.cubins import Cubin, Specialisation
from flux_runtime.cuda.cubins.specialisation import Parameter
from flux_runtime.cuda.plan import Buffer, Launch, LaunchPlan, Pointer
from flux_runtime.cuda.player import Program, Variant
from flux_runtime.cuda.recipes import Stored

from .fake_card import ARCH, FakeCard, array_at

CAMERAS, HEIGHT, WIDTH, TOKENS, STATE, HORIZON, DIM = 3, 2, 4, 8, 2, 4, 3
VOCABULARY = 100
VARIANTS: tuple[Variant, ...] = ((1, 4), (1, 8), (2, 4), (2, 8), (3, 4), (3, 8))
WEIGHTS: Mapping[str, NDArray[Any]] = {
    "weight": np.array([[0.5, -1.0, 2.0]], np.float32),
    "offset": np.array([0.25], np.float32),
}
INPUTS = {
    "images": ("uint8", (1, CAMERAS, HEIGHT, WIDTH, 3)),
    "image_masks": ("bool", (1, CAMERAS)),
    "lang_tokens": ("int64", (1, TOKENS)),
    "lang_masks": ("bool", (1, TOKENS)),
    "state": ("float32", (1, STATE)),
}


def at(name: str, offset: int = 0) -> Pointer:
    """The address of an element."""
    return Pointer(buffer=name, offset=offset)


def toy_plan(cameras: int, tokens: int) -> LaunchPlan:
    """x = noise * weight + what the inputs say, and known rows in place of x."""

    def buffer(dtype: Any, *shape: int, role: Any = "input", recipe: Any = None) -> Buffer:
        return Buffer(dtype=dtype, shape=shape, role=role, recipe=recipe)

    buffers = {
        "num_tokens": buffer("i32", 1),
        "images": buffer("u8", cameras, HEIGHT, WIDTH, 3),
        "cameras": buffer("i32", cameras),
        "tokens": buffer("i32", tokens),
        "state": buffer("fp32", STATE),
        "noise": buffer("fp32", HORIZON, DIM),
        "known": buffer("fp32", HORIZON, DIM),
        "num_known": buffer("i32", 1),
        "weight": buffer("bf16", 1, DIM, role="constant", recipe=Stored(name="weight")),
        "offset": buffer("fp32", 1, role="constant", recipe=Stored(name="offset")),
        "x": buffer("fp32", 2, HORIZON, DIM, role="work"),
        "actions": buffer("fp32", HORIZON, DIM, role="output"),
    }
    half = HORIZON * DIM
    digest = ("num_tokens", "images", "cameras", "tokens", "state", "noise", "weight", "offset")
    return LaunchPlan(
        name=f"{cameras} cameras, {tokens} tokens",
        buffers=buffers,
        launches=(
            Launch(
                stage="prefix",
                kernel="digest",
                arguments=(cameras, *map(at, digest), tokens, 0.5, at("x", half)),
                constants={"BLOCK": 16},
                grid=(cameras, tokens, 1),
            ),
            Launch(
                stage="steps",
                kernel="finish",
                arguments=(at("x", half), at("known"), at("num_known"), at("actions")),
                constants={},
                grid=(1, 1, 2),
                num_warps=2,
            ),
        ),
    )


def specialise_toy(plan: LaunchPlan, launch: Launch) -> Specialisation:
    """What the toy's kernels depend on."""
    types = {int: "i32", float: "fp32"}
    return Specialisation(
        kernel=launch.kernel,
        constants=launch.constants,
        parameters=tuple(Parameter(type=types.get(type(a), "*u8")) for a in launch.arguments),
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
    )


@dataclass
class FakeCubins:
    """Machine code that only names its kernel, and asks for more threads than the plan says."""

    folder: Path
    arch: str = ARCH
    shared_bytes: Mapping[str, int] = field(default_factory=dict)
    content: Mapping[str, bytes] = field(default_factory=dict)
    made: dict[str, Specialisation] = field(default_factory=dict)

    @property
    def architecture(self) -> Architecture:
        """As a real store says it."""
        return ARCHITECTURES[self.arch]

    def cubin(self, wanted: Specialisation) -> Cubin:
        """Writes the file that a real store has."""
        import hashlib

        symbol = f"{wanted.kernel}_{len(self.made)}"
        self.made[symbol] = wanted
        content = f"FAKE {self.arch} {symbol}\0".encode()
        path = self.folder / f"{symbol}.cubin"
        path.write_bytes(self.content.get(wanted.kernel, content))
        return Cubin(
            path=path,
            sha256=hashlib.sha256(content).hexdigest(),
            symbol=symbol,
            shared_bytes=self.shared_bytes.get(wanted.kernel, 0),
            num_warps=wanted.num_warps + 4,
            parameters=parameter_table(wanted),
            registers=32,
            spill_bytes=0,
        )


def codes(wanted: Specialisation) -> str:
    """The parameter block as `struct` spells it, with the two addresses of scratch memory."""
    letters = {"i32": "i", "fp32": "f"}
    return "@" + "".join(letters.get(one.type, "Q") for one in wanted.parameters) + "QQ"


def parameter_table(wanted: Specialisation) -> tuple[tuple[int, int], ...]:
    """Offset and size of each parameter, from C's rules as `struct` applies them."""
    letters = codes(wanted)[1:]
    sizes = [struct.calcsize(letter) for letter in letters]
    ends = [struct.calcsize("@" + letters[: end + 1]) for end in range(len(letters))]
    return tuple((end - size, size) for end, size in zip(ends, sizes, strict=True))


def digest(num_cameras: int, images: Any, cameras: Any, tokens: Any, state: Any) -> float:
    """What the toy makes of its inputs."""
    seen = sum(float(image.sum()) * (2 + int(c)) for image, c in zip(images, cameras, strict=True))
    return 1000.0 * num_cameras + seen + 100.0 * len(tokens) + float(tokens.sum()) + 0.5 * state[1]


def install_kernels(card: FakeCard, cubins: FakeCubins) -> None:
    """Gives the card the functions behind the toy's symbols."""

    def run_digest(grid: tuple[int, int, int], block: bytes, wanted: Specialisation) -> None:
        cameras, num, images, numbers, tokens, state, noise, weight, offset, places, half, x, *_ = (
            struct.unpack(codes(wanted), block)
        )
        assert grid == (cameras, places, 1) and half == 0.5
        count = int(array_at(num, np.int32, 1)[0])
        padding = array_at(tokens, np.int32, places)[count:]
        assert not padding.any()
        value = digest(
            cameras,
            array_at(images, np.uint8, cameras, HEIGHT, WIDTH, 3),
            array_at(numbers, np.int32, cameras),
            array_at(tokens, np.int32, count),
            array_at(state, np.float32, STATE),
        )
        bits = array_at(weight, np.uint16, DIM).astype(np.uint32) << np.uint32(16)
        result = array_at(noise, np.float32, HORIZON, DIM) * bits.view(np.float32) + value
        array_at(x, np.float32, HORIZON, DIM)[...] = result + array_at(offset, np.float32, 1)

    def run_finish(grid: tuple[int, int, int], block: bytes, wanted: Specialisation) -> None:
        x, known, count, actions, *scratch = struct.unpack(codes(wanted), block)
        assert grid == (1, 1, 2) and scratch == [0, 0]
        rows = int(array_at(count, np.int32, 1)[0])
        result = array_at(actions, np.float32, HORIZON, DIM)
        result[...] = array_at(x, np.float32, HORIZON, DIM)
        result[:rows] = array_at(known, np.float32, HORIZON, DIM)[:rows]

    functions = {"digest": run_digest, "finish": run_finish}
    for symbol, wanted in cubins.made.items():
        run = functions[wanted.kernel]
        card.kernel(
            symbol,
            lambda grid, block, run=run, wanted=wanted: run(grid, block, wanted),
            struct.calcsize(codes(wanted)),
        )


def toy_program(cubins: FakeCubins, variants: Iterable[Variant] = VARIANTS) -> Program:
    """All variants of the toy."""
    return Program(
        plans={variant: toy_plan(*variant) for variant in variants},
        arch=cubins.arch,
        kernels=cubins,
        read=lambda name: WEIGHTS[name],
        inputs=INPUTS,
        action_shape=(HORIZON, DIM),
        vocabulary_size=VOCABULARY,
        specialise=specialise_toy,
    )
