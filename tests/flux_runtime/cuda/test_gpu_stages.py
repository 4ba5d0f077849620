"""The stages of benchmarks/gpu that compare, with a driver whose kernels Triton's interpreter runs.

What they read from the card's memory, and what they compare it with, is thus checked before a card
is there.
"""

from __future__ import annotations

import importlib
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flux_core.models.pi.sizes import Kind
from flux_runtime.cuda.cubins import Cubin, Specialisation
from flux_runtime.cuda.plan import Pointer

from . import interpreter
from .fake_card import FakeCard
from .networks import small_tree
from .toy_program import FakeCubins, codes

NAMES = ("record", "policies", "card", "kernel_problems", "timings", "checks")
BUCKET = 12
PROBLEMS = ("linear, layer norm", "attention, suffix", "patches", "combine")


@dataclass
class InterpretedCubins:
    """Machine code that only names its kernel; the fake card then calls the interpreter."""

    card: FakeCard
    fake: FakeCubins
    faulty: str = ""
    known: dict[str, Cubin] = field(default_factory=dict)
    architecture: Any = field(default_factory=lambda: SimpleNamespace(name="sm_90a"))

    def cubin(self, wanted: Specialisation) -> Cubin:
        """The same for the same specialisation."""
        if wanted.key not in self.known:
            found = self.known[wanted.key] = self.fake.cubin(wanted)
            size = struct.calcsize(codes(wanted))
            self.card.kernel(found.symbol, lambda grid, block: self.run(grid, block, wanted), size)
        return self.known[wanted.key]

    def run(self, grid: tuple[int, int, int], block: bytes, wanted: Specialisation) -> None:
        """Runs a kernel on the addresses in its parameter block."""
        values = struct.unpack(codes(wanted), block)
        assert values[-2:] == (0, 0)
        arguments = tuple(
            Pointer(buffer=parameter.type, offset=value)
            if parameter.type.startswith("*")
            else value
            for parameter, value in zip(wanted.parameters, values[:-2], strict=True)
        )
        if wanted.kernel == self.faulty:
            grid = (grid[0] - 1, *grid[1:])
        kernel = interpreter.kernels()[wanted.kernel]
        interpreter.run_kernel(kernel, PlainMemory(), arguments, wanted.constants, grid)


class PlainMemory(interpreter.Memory):
    """Addresses as they are."""

    def pointer(self, to: Pointer) -> Any:
        kind = interpreter.tl.str_to_ty(to.buffer, None)
        address = np.array([to.offset], np.uint64)
        handle = interpreter.triton_interpreter.TensorHandle(address, kind)
        return interpreter.tl.tensor(handle, kind)

    def check(self, addresses: Any, item_bytes: int, verb: str) -> None:
        pass


@pytest.fixture
def stages(repo_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The modules of benchmarks/gpu, with tiny networks, two steps and the interpreter's tiles."""
    monkeypatch.syspath_prepend(str(repo_root / "benchmarks" / "gpu"))
    found: dict[str, ModuleType] = {name: importlib.import_module(name) for name in NAMES}
    policies: Any = found["policies"]
    make_plan = policies.make_plan

    def tiny(kind: Kind, size: str, *, action_horizon: int, action_dim: int) -> dict[str, Any]:
        tree = small_tree(kind, 2)
        tree["n_action_steps"] = action_horizon
        tree["max_action_dim"] = tree["action_in_proj"]["in_dim"] = action_dim
        tree["action_out_proj"]["out_dim"] = action_dim
        if "state_proj" in tree:
            tree["state_proj"]["in_dim"] = action_dim
        return tree

    monkeypatch.setattr(policies, "sized_model", tiny)
    monkeypatch.setattr(policies, "HORIZON", 10)
    monkeypatch.setattr(policies, "TOKENS", BUCKET)
    monkeypatch.setattr(policies, "PROMPTS", {"pi0": (BUCKET,), "pi05": (BUCKET,)})
    monkeypatch.setattr(policies, "make_plan", lambda *a, arch: make_plan(*a, arch=""))
    yield SimpleNamespace(**found)
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.fixture
def cubins(card: FakeCard, tmp_path: Path) -> InterpretedCubins:
    """For a card that runs kernels in the interpreter."""
    return InterpretedCubins(card, FakeCubins(tmp_path))


def run_stage(stages: Any, cubins: InterpretedCubins, stage: Any, *arguments: Any) -> Any:
    """Runs a stage; returns its record."""
    record = stages.record.Record(cubins.fake.folder / "result.json", True)
    settings = SimpleNamespace(
        library=cubins.card.library,
        device="cpu",
        size="full",
        is_rehearsal=True,
        times=lambda count: min(count, 1),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages.checks, "cubins_of", lambda _: cubins)
        stage(record, settings, *arguments)
    return record


@pytest.mark.parametrize("kind", ["pi0", "pi05"])
def test_each_part_of_a_network_is_compared_with_the_same_part_in_torch(
    stages: Any, cubins: InterpretedCubins, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    monkeypatch.setattr(stages.checks, "time_parts", lambda *_: None)
    record = run_stage(stages, cubins, stages.checks.parts, kind)
    names = ["vision", "prefix, keys", "prefix, values", "steps"]
    assert [one["name"].partition(":")[0] for one in record.checks] == names
    assert all(one["ok"] for one in record.checks), record.checks
    assert len(record.figures["prefix, keys of each layer: cosine"]) == 2


def test_the_player_is_compared_with_torch_and_a_fault_is_seen(
    stages: Any, cubins: InterpretedCubins
) -> None:
    compare = stages.checks.compare_player
    record = run_stage(stages, cubins, compare, "pi0", "full", ((2, BUCKET),))
    assert len(record.checks) == 2
    assert all(one["ok"] for one in record.checks), record.checks
    cubins.faulty = "geglu"
    record = run_stage(stages, cubins, compare, "pi0", "full", ((1, BUCKET),))
    assert not any(one["ok"] for one in record.checks), record.checks


@pytest.mark.parametrize("faulty", ["", "linear"])
def test_kernels_are_compared_with_float64(
    stages: Any, cubins: InterpretedCubins, monkeypatch: pytest.MonkeyPatch, faulty: str
) -> None:
    problems = stages.kernel_problems.PROBLEMS
    some = {name: problems[name] for name in PROBLEMS}
    monkeypatch.setattr(stages.kernel_problems, "PROBLEMS", some)
    cubins.faulty = faulty
    record = run_stage(stages, cubins, stages.checks.kernels)
    found = {one["name"].partition(":")[0]: one["ok"] for one in record.checks}
    assert found == {name: not (faulty and name.startswith(faulty)) for name in PROBLEMS}


def test_parts_are_timed_as_graphs(stages: Any, cubins: InterpretedCubins) -> None:
    problem = stages.kernel_problems.problems("sm_90a", 0)["attention, suffix"]
    plan = replace(
        problem.plan, launches=tuple(replace(one, stage="steps") for one in problem.plan.launches)
    )
    card = stages.card.Card(cubins.card.library)
    loaded = stages.card.LoadedPlan(card, plan, cubins, problem.values)
    parts = {"steps": list(plan.launches)}
    record = run_stage(stages, cubins, stages.checks.time_parts, loaded, parts)
    assert record.figures["stage_ms"]["steps"]["launches"] == 2
    assert [*record.figures["kernel_ms"]] == ["steps, attention", "steps, combine"]
    assert record.figures["kernel_ms"]["steps, combine"]["count"] == 1
