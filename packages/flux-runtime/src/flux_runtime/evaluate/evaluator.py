"""Plays episodes of a suite in this process: one policy, one robot at a time."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

from flux_core.agreement import Changes

from ..control.episode import EpisodeResult
from ..control.latency import StageTimes
from ..control.session import OpenedPolicy, RunOptions, Session, connected, drive, open_policy
from ..report import VideoRecorder
from ..robots import SimulatedRobot
from .options import EvaluationOptions
from .suites import Suite, SuiteTask, find_suite, select_tasks

logger = logging.getLogger("flux.evaluate")


@dataclass(frozen=True, kw_only=True)
class EpisodeJob:
    """One episode: the task's index among the evaluated tasks, and the seed."""

    task: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Played:
    """A finished episode.

    Attributes:
        job: the task and the seed.
        result: the result.
        facts: the result of `Session.describe`.
        video: an MP4, if the episode was filmed.
    """

    job: EpisodeJob
    result: EpisodeResult
    facts: Mapping[str, object]
    video: bytes | None = None


class Evaluator:
    """Plays and films episodes; opens the policy once, and keeps a scene while its task lasts."""

    def __init__(self, options: EvaluationOptions) -> None:
        self._options = options
        self._suite: Suite = find_suite(options.suite)
        self._tasks = select_tasks(self._suite, options.tasks)
        self._times = StageTimes()
        self._stack = ExitStack()
        self._policy: OpenedPolicy | None = None
        self._current: tuple[int, Session] | None = None

    def play(self, job: EpisodeJob) -> Played:
        """Plays one episode, and films it if `--video` is given."""
        session = self._session(job.task)
        result = drive(session, job.seed, hold_ticks=self._suite.hold_ticks)
        played = Played(job=job, result=result, facts=session.describe())
        return replace(played, video=self.film(played)) if self._options.video else played

    def film(self, played: Played) -> bytes | None:
        """Sends the commands of an episode once more and returns the camera images as an MP4.

        Returns None and logs a warning if the simulation ends differently this time.
        """
        robot = self._session(played.job.task).robot
        assert isinstance(robot, SimulatedRobot)
        recorder = VideoRecorder(robot, control_hz=robot.spec.control_hz)
        robot.reset(played.job.seed)
        for step, command in enumerate(played.result.trace.commands):
            robot.command(command)
            recorder.on_tick(step + 1)
        video = recorder.finish()
        if dict(robot.stages()) == played.result.stages:
            return video or None
        logger.warning(
            "seed %d: no video, because the episode ended differently when it was replayed",
            played.job.seed,
        )
        return None

    def close(self) -> None:
        """Closes the robot."""
        self._stack.close()
        self._current = None

    def _session(self, index: int) -> Session:
        if self._current is None or self._current[0] != index:
            self.close()
            task = self._tasks[index]
            robot = task.make_robot()
            options = self._run_options(task)
            if self._policy is None:
                words = tuple(task.words for task in self._tasks)
                self._policy = open_policy(options, robot.spec, self._times, words)
            options = replace(options, task=self._words(task))
            session = self._stack.enter_context(
                connected(options, robot, self._policy, self._times)
            )
            self._current = index, session
        return self._current[1]

    def _run_options(self, task: SuiteTask) -> RunOptions:
        return RunOptions(
            robot=self._suite.robot,
            bundle=self._options.bundle,
            max_steps=self._options.max_steps or self._suite.max_steps,
            mode=self._options.mode,
            inference_delay=self._options.inference_delay,
            changes=Changes(execution_horizon=self._options.execution_horizon),
            engine=self._options.engine,
            threads=self._options.threads,
            accept_versions=self._options.accept_versions,
        )

    def _words(self, task: SuiteTask) -> str | None:
        """Returns the prompt for the policy; None for its bundle's default."""
        assert self._policy is not None
        is_known = task.words in self._policy.manifest.tasks.values()
        return task.words if self._suite.tells_its_words or is_known else None
