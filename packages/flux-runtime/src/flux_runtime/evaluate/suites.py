"""The suites: which tasks there are, how long an episode may take, and what counts as success."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from flux_core.errors import UsageError
from flux_core.sim import choose_tasks

from ..control.session import DEFAULT_MAX_STEPS, DEFAULT_SEED
from ..control.success import STRICT_HOLD_TICKS
from ..robots import SimulatedRobot
from ..robots.aloha_sim import AlohaInsertionRobot, AlohaSimRobot
from ..robots.libero import LiberoRobot


@dataclass(frozen=True, kw_only=True)
class SuiteTask:
    """One task.

    Attributes:
        name: short, for `--task`, tables and files.
        words: what the policy is told.
        make_robot: the robot with this task, not yet connected.
    """

    name: str
    words: str
    make_robot: Callable[[], SimulatedRobot]


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Some tasks of one robot.

    Attributes:
        name: of `--suite`.
        robot: which bundles it takes.
        list_tasks: the tasks in order; raises where the simulator is not installed.
        tells_its_words: whether policies are always told the task's words; otherwise one that was
            trained with a text of its own hears that.
        first_seed: of the first episode of each task.
        max_steps: the longest episode, control steps.
        hold_ticks: for so long the end state must hold before an episode ends early; with 1 it
            ends at the first success.
        stages: those whose rates are reported beside success.
        has_shipped_policy: whether the policy that comes with flux does this.
    """

    name: str
    robot: str
    list_tasks: Callable[[], tuple[SuiteTask, ...]]
    tells_its_words: bool
    first_seed: int
    max_steps: int
    hold_ticks: int
    stages: tuple[str, ...]
    has_shipped_policy: bool = False


def suite_names() -> tuple[str, ...]:
    """Returns what `find_suite` takes."""
    return (*ALIASES, *SUITES)


def find_suite(name: str) -> Suite:
    """Returns the suite called `name`; underscores may stand for hyphens.

    Raises:
        UsageError: there is none.
    """
    wanted = name.replace("_", "-")
    wanted = ALIASES.get(wanted, wanted)
    if wanted not in SUITES:
        raise UsageError(f"--suite {name}: no such suite. Known: {', '.join(suite_names())}")
    return SUITES[wanted]


def select_tasks(suite: Suite, wanted: Sequence[str]) -> tuple[SuiteTask, ...]:
    """Returns the tasks named by number or by (a part of) their names or words; without any, all.

    Raises:
        UsageError: one of `wanted` is no task, or may be several.
    """
    tasks = suite.list_tasks()
    chosen = choose_tasks(suite.name, [(task.name, task.words) for task in tasks], wanted)
    return tuple(tasks[i] for i in chosen)


def _aloha(
    name: str, robot: type[AlohaSimRobot], *stages: str, has_shipped_policy: bool = False
) -> Suite:
    task = SuiteTask(name=name, words=robot.task, make_robot=robot)
    return Suite(
        name=name,
        robot="aloha-sim",
        list_tasks=lambda: (task,),
        tells_its_words=False,
        first_seed=DEFAULT_SEED,
        max_steps=DEFAULT_MAX_STEPS,
        hold_ticks=STRICT_HOLD_TICKS,
        stages=stages,
        has_shipped_policy=has_shipped_policy,
    )


def _libero(name: str, max_steps: int) -> Suite:
    return Suite(
        name=name,
        robot="libero",
        list_tasks=partial(_libero_tasks, name),
        tells_its_words=True,
        first_seed=0,  # the seeds are the numbers of the benchmark's start states
        max_steps=max_steps,
        hold_ticks=1,
        stages=(),
    )


def _libero_tasks(suite: str) -> tuple[SuiteTask, ...]:
    from flux_core.sim import libero_tasks

    return tuple(
        SuiteTask(name=task.name, words=task.language, make_robot=partial(LiberoRobot, task))
        for task in libero_tasks(suite)
    )


def _suites() -> dict[str, Suite]:
    from flux_core.sim import LIBERO_MAX_STEPS

    aloha = (
        _aloha(
            "aloha-transfer-cube",
            AlohaSimRobot,
            *("touched", "lifted", "transferred"),
            has_shipped_policy=True,
        ),
        _aloha("aloha-insertion", AlohaInsertionRobot, "touched", "lifted", "met", "inserted"),
    )
    libero = (_libero(name, max_steps) for name, max_steps in LIBERO_MAX_STEPS.items())
    return {suite.name: suite for suite in (*aloha, *libero)}


ALIASES = {"aloha-sim": "aloha-transfer-cube"}
SUITES = _suites()
