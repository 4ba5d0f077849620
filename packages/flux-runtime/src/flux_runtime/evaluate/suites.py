"""The suites: their tasks, the longest episode, and what counts as success."""

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
        name: short name, for `--task`, tables and file names.
        words: the task in words, for the policy's prompt.
        make_robot: returns the robot with this task, not yet connected.
    """

    name: str
    words: str
    make_robot: Callable[[], SimulatedRobot]


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Some tasks of one robot.

    Attributes:
        name: the value of `--suite`.
        robot: the robot that bundles must be trained for.
        list_tasks: returns the tasks in order; raises if the simulator is not installed.
        tells_its_words: whether the prompt is always the task's words; otherwise a policy that was
            not trained with these words gets its bundle's own prompt.
        first_seed: seed of the first episode of each task.
        max_steps: longest episode, in control steps.
        hold_ticks: number of ticks for which the end state must hold before an episode ends early;
            with 1, it ends at the first success.
        stages: the stages whose rates are reported in addition to success.
        shipped_policy: name of the policy that flux ships for this suite.
    """

    name: str
    robot: str
    list_tasks: Callable[[], tuple[SuiteTask, ...]]
    tells_its_words: bool
    first_seed: int
    max_steps: int
    hold_ticks: int
    stages: tuple[str, ...]
    shipped_policy: str | None = None


def suite_names() -> tuple[str, ...]:
    """Returns the names that `find_suite` accepts."""
    return (*ALIASES, *SUITES)


def find_suite(name: str) -> Suite:
    """Returns the suite called `name`; underscores may stand for hyphens.

    Raises:
        UsageError: there is no such suite.
    """
    wanted = name.replace("_", "-")
    wanted = ALIASES.get(wanted, wanted)
    if wanted not in SUITES:
        raise UsageError(f"--suite: expected one of {', '.join(suite_names())}, got {name}")
    return SUITES[wanted]


def select_tasks(suite: Suite, wanted: Sequence[str]) -> tuple[SuiteTask, ...]:
    """Returns the tasks given by number, or by (part of) their names or words; without any, all.

    Raises:
        UsageError: one of `wanted` matches no task, or several.
    """
    tasks = suite.list_tasks()
    chosen = choose_tasks(suite.name, [(task.name, task.words) for task in tasks], wanted)
    return tuple(tasks[i] for i in chosen)


def _aloha(name: str, robot: type[AlohaSimRobot], *stages: str, shipped_policy: str) -> Suite:
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
        shipped_policy=shipped_policy,
    )


def _libero(name: str, max_steps: int) -> Suite:
    return Suite(
        name=name,
        robot="libero",
        list_tasks=partial(_libero_tasks, name),
        tells_its_words=True,
        first_seed=0,  # seeds are the indices of the benchmark's start states
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
            shipped_policy="aloha_sim_transfer_cube",
        ),
        _aloha(
            "aloha-insertion",
            AlohaInsertionRobot,
            *("touched", "lifted", "met", "inserted"),
            shipped_policy="aloha_sim_both",
        ),
    )
    libero = (_libero(name, max_steps) for name, max_steps in LIBERO_MAX_STEPS.items())
    return {suite.name: suite for suite in (*aloha, *libero)}


ALIASES = {"aloha-sim": "aloha-transfer-cube"}
SUITES = _suites()
