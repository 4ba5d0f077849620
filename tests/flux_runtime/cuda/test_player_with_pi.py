"""Small pi0 and pi0.5 through the player: launches as planned, and actions from an observation.

Behind the fake card's launches is Triton's interpreter, which gets nothing but the parameter blocks
and the card's memory.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_core.models.pi.sizes import Kind
from flux_runtime.cuda.cubins import Specialisation
from flux_runtime.cuda.pi import make_plan
from flux_runtime.cuda.plan import Pointer
from flux_runtime.cuda.player import Program, play

from . import networks
from .expected_launches import assert_launches_are_those_of_the_plans, offsets_of
from .fake_card import FakeCard
from .toy_program import FakeCubins, codes

KINDS: tuple[Kind, ...] = ("pi0", "pi05")
BUCKET = 12


def program_of(network: Any, cubins: FakeCubins, dtype: Any, arch: str) -> Program:
    """Plans for one and two of three cameras."""
    config = network.model.config
    height, width = config.image_size
    inputs = {
        "images": ("uint8", (1, 3, height, width, 3)),
        "image_masks": ("bool", (1, 3)),
        "lang_tokens": ("int64", (1, BUCKET)),
        "lang_masks": ("bool", (1, BUCKET)),
    }
    if config.reads_state:
        inputs["state"] = ("float32", (1, networks.STATE_DIM))
    return Program(
        plans={
            (cameras, BUCKET): make_plan(
                network.description, cameras, BUCKET, dtype=dtype, arch=arch
            )
            for cameras in (1, 2)
        },
        arch=cubins.arch,
        kernels=cubins,
        read=network.read,
        inputs=inputs,
        action_shape=(networks.HORIZON, networks.ACTION_DIM),
        vocabulary_size=network.description.vocabulary,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_launch_of_a_network_is_what_its_plans_say(
    kind: Kind, card: FakeCard, tmp_path: Path, core: Any
) -> None:
    network = networks.Exported(networks.small_tree(kind, 2), "bf16")
    program = program_of(network, FakeCubins(tmp_path), "bf16", "sm_90a")
    policy = play(program, core, card.library)
    assert_launches_are_those_of_the_plans(card, program)
    assert len(card.calls("cuMemcpyHtoDAsync_v2")) == 2 * 2 + sum(
        buffer.role == "constant" for buffer in program.plans[2, BUCKET].buffers.values()
    )
    del policy
    assert card.live() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_an_observation_becomes_the_actions_of_the_network(
    kind: Kind, card: FakeCard, tmp_path: Path, core: Any
) -> None:
    tree = networks.small_tree(kind, 2)
    network, cubins = networks.Exported(tree, "fp32"), FakeCubins(tmp_path)
    program = program_of(network, cubins, "fp32", "")
    interpreted = Interpreted(card, program)
    policy = play(program, core_that_names_kernels(core, interpreted), card.library)
    interpreted.is_on = True
    observed = networks.observation(
        network.model.config, cameras=(0, 2), bucket=BUCKET, num_tokens=7, num_known=3
    )
    given = {
        "images": observed.images[None],
        "image_masks": np.array([[True, False, True]]),
        "lang_tokens": observed.tokens[None].astype(np.int64),
        "lang_masks": np.arange(BUCKET)[None] < observed.num_tokens,
        "state": observed.state[None],
    }
    inputs = {name: value for name, value in given.items() if name in policy.inputs}
    settings = core.ContinuationSettings(method="prefix", delays=(0, 3))
    found = policy.infer(inputs, observed.noise, observed.known, 3, settings)
    expected = network.actions(observed)
    np.testing.assert_array_equal(found[:3], observed.known)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < 1e-5, f"relative error {error:.1e}"


def core_that_names_kernels(core: Any, interpreted: Interpreted) -> Any:
    """The core, before whose player the kernels get their functions."""

    class Core:
        @staticmethod
        def CudaPlayer(**arguments: Any) -> Any:
            interpreted.install()
            return core.CudaPlayer(**arguments)

    return Core


class Interpreted:
    """Runs launches of the fake card in Triton's interpreter."""

    def __init__(self, card: FakeCard, program: Program) -> None:
        self.card, self.program = card, program
        self.is_on = False

    def install(self) -> None:
        """Gives every symbol its kernel."""
        cubins: Any = self.program.kernels
        for symbol, wanted in cubins.made.items():
            size = struct.calcsize(codes(wanted))
            self.card.kernel(
                symbol, lambda grid, block, wanted=wanted: self.run(grid, block, wanted), size
            )

    def run(self, grid: tuple[int, int, int], block: bytes, wanted: Specialisation) -> None:
        """Runs a kernel on what is in its parameter block."""
        from .interpreter import kernels, run_kernel

        if not self.is_on:
            return
        values = struct.unpack(codes(wanted), block)
        assert values[-2:] == (0, 0)
        arguments = tuple(
            Pointer(buffer=parameter.type, offset=value)
            if parameter.type.startswith("*")
            else value
            for parameter, value in zip(wanted.parameters, values[:-2], strict=True)
        )
        memory = card_memory(self.card, offsets_of(self.program), self.sizes)
        kernel = kernels()[wanted.kernel]
        run_kernel(kernel, memory, arguments, wanted.constants, grid)

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of each buffer, of the largest variant."""
        return {
            name: max(
                plan.buffers[name].num_bytes
                for plan in self.program.plans.values()
                if name in plan.buffers
            )
            for name in offsets_of(self.program)
        }


def card_memory(card: FakeCard, offsets: Mapping[str, int], sizes: Mapping[str, int]) -> Any:
    """The card's memory as kernels in the interpreter use it; a pointer is a plain address."""
    from . import interpreter

    base, _ = card.memory
    spans = sorted((base + offset, base + offset + sizes[name]) for name, offset in offsets.items())

    class CardMemory(interpreter.Memory):
        def __init__(self) -> None:
            super().__init__()
            self._starts, self._ends = [a for a, _ in spans], [b for _, b in spans]

        def pointer(self, to: Pointer) -> Any:
            kind = interpreter.tl.str_to_ty(to.buffer, None)
            address = np.array([to.offset], np.uint64)
            handle = interpreter.triton_interpreter.TensorHandle(address, kind)
            return interpreter.tl.tensor(handle, kind)

    return CardMemory()
