"""Runs against the fake arm: those of a module run side by side, each with an arm of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from ..machine_stalls import Attempt
from .fake_arm.runs import Outcome, Scenario, run

SIDE_BY_SIDE = 4
Outcomes = Callable[[str], Outcome]


@pytest.fixture(scope="module")
def outcome(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcomes]:
    """Returns the outcome of one of the module's `SCENARIOS` by its name.

    Only those that the selected tests name in their code are run; and again, alone, for a test that
    is run again because the machine stood still.
    """
    scenarios: dict[str, Scenario] = request.module.SCENARIOS
    wanted = [name for name in scenarios if _is_wanted(name, request)]
    folder = tmp_path_factory.mktemp("arm", numbered=True)
    with ThreadPoolExecutor(getattr(request.module, "SIDE_BY_SIDE", SIDE_BY_SIDE)) as pool:
        runs: dict[str, Future[Outcome]] = {
            name: pool.submit(run, folder / name, scenarios[name]) for name in wanted
        }

        def outcome_of(name: str) -> Outcome:
            if not Attempt.number:
                return runs[name].result()
            again = f"{name}, {Attempt.number}"
            if again not in runs:
                runs[again] = pool.submit(run, folder / again, scenarios[name])
            return runs[again].result()

        yield outcome_of


def _is_wanted(name: str, request: pytest.FixtureRequest) -> bool:
    """Whether a selected test of the module has the name in its code or its parameters."""
    for item in request.session.items:
        function = getattr(item, "function", None)
        if item.path != Path(request.node.path) or function is None:
            continue
        parameters = getattr(item, "callspec", None)
        given = parameters.params.values() if parameters else ()
        if name in function.__code__.co_consts or name in given:
            return True
    return False
