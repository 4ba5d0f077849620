"""Plans as data: what they launch, and the faults that can be seen without running them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from flux_core.models.pi.sizes import Kind
from flux_runtime.cuda.cubins.shipped import full_size
from flux_runtime.cuda.pi import PiDescription, check_plan, make_plan, work_of
from flux_runtime.cuda.plan import LaunchPlan, Pointer

from .test_inference import KINDS, small


@pytest.fixture(scope="module", params=KINDS)
def description(request: pytest.FixtureRequest) -> PiDescription:
    """A small network."""
    kind: Kind = request.param
    return small(kind, "fp32").description


def test_plans_have_no_fault(description: PiDescription) -> None:
    for cameras in range(4):
        for tokens in (1, 16, 48):
            assert check_plan(make_plan(description, cameras, tokens, arch="")) == []


def test_a_missing_launch_is_found(description: PiDescription) -> None:
    plan = make_plan(description, 2, 16, arch="")
    for number, launch in enumerate(plan.launches):
        rest = (*plan.launches[:number], *plan.launches[number + 1 :])
        # Without pi0.5's first launch of a later step, the expert goes on from the last step's
        # tokens. Only the numbers show that.
        is_hidden = description.adaptive and work_of(launch).reads[0].buffer == "x_t"
        assert is_hidden or check_plan(replace(plan, launches=rest)), f"{number}: {launch.kernel}"


def test_pointers_and_sizes_that_leave_a_buffer_are_found(description: PiDescription) -> None:
    plan = make_plan(description, 2, 16, arch="")
    for number, launch in enumerate(plan.launches):
        for place, argument in enumerate(launch.arguments):
            if isinstance(argument, Pointer) and _is_used(plan, number, place):
                size = plan.buffers[argument.buffer].size
                moved = replace(argument, offset=size)
                assert check_plan(_changed(plan, number, place, moved)), (number, place)


def test_a_result_over_what_the_launch_reads_is_found(description: PiDescription) -> None:
    plan = make_plan(description, 2, 16, arch="")
    for number, launch in enumerate(plan.launches):
        result = next(span for span in work_of(launch).writes if span.size)
        moved = Pointer(buffer=result.buffer, offset=result.begin)
        changed = _changed(plan, number, 0, moved)
        read = work_of(changed.launches[number]).reads[0]
        where = f"launch {number} ({launch.stage}, {launch.kernel})"
        assert f"{where} reads {read} and writes {result}" in check_plan(changed)


def _is_used(plan: LaunchPlan, number: int, place: int) -> bool:
    """Whether a launch reads or writes an argument, and not only names it."""
    argument = plan.launches[number].arguments[place]
    assert isinstance(argument, Pointer)
    elsewhere = _changed(plan, number, place, Pointer(buffer="elsewhere"))
    work = work_of(elsewhere.launches[number])
    return any(s.size and s.buffer == "elsewhere" for s in (*work.reads, *work.writes))


def _changed(plan: LaunchPlan, number: int, place: int, argument: Pointer) -> LaunchPlan:
    launches, arguments = list(plan.launches), list(plan.launches[number].arguments)
    arguments[place] = argument
    launches[number] = replace(launches[number], arguments=tuple(arguments))
    return replace(plan, launches=tuple(launches))


@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_of_a_full_size_network(kind: Kind) -> None:
    plan = make_plan(full_size(kind), 3, 48)
    launches = Counter(launch.stage for launch in plan.launches)
    per_step = 111 if kind == "pi0" else 110
    state = 1 if kind == "pi0" else 0
    assert launches == {"start": 1, "vision": 137, "prefix": 87, "steps": 10 * per_step + state}
    operations = Counter[str]()
    for launch in plan.launches:
        operations[launch.stage] += work_of(launch).operations
    assert 4.1e12 < operations.total() < 4.3e12
    assert check_plan(plan) == []


def test_plans_of_one_policy_share_their_constants(description: PiDescription) -> None:
    """So that a player can keep them once."""
    plans = [make_plan(description, c, t) for c, t in ((1, 16), (3, 48))]
    constants = [
        {name: buffer for name, buffer in plan.buffers.items() if buffer.role == "constant"}
        for plan in plans
    ]
    assert constants[0] == constants[1]
