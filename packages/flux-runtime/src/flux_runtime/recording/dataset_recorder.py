"""Records the episodes of a run as a LeRobot dataset.

In real time, rows go from here to the recording process, and pictures from the driver's process,
each through a queue of bounded size: the control thread and the inference never wait. On simulated
time, pictures are rendered for every step here, and this process waits for the recording.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from flux_core.command_line import StoppedBySignal
from flux_core.errors import DataError, RobotError, UsageError
from flux_driver.recording import FrameSender

from ..control.episode import EpisodeResult
from ..control.episode_log import Event, InferenceTimes, Rows
from ..control.realtime_session import RealtimeSession
from ..control.session import Session
from ..realtime import DriverCancelled
from .recorder_process import PROTOCOL_VERSION, START_TIMEOUT_S, RecorderProcess
from .steps import ControlSteps, rows_dtype

logger = logging.getLogger("flux.runtime")

DATASET_VERSIONS = ("v2.1", "v3.0")
SAVE_TIMEOUT_S = 300.0
SLOW_S = 10.0
"""A wait that lasts longer is announced."""
MAX_PACKET_BYTES = 1 << 16
"""Of the rows in one message."""
STEP_NS = 1_000_000
"""Between the stamps of two looks on simulated time, more than the recording's tolerance."""


class DatasetRecorder:
    """The recording of one run; `open` comes first, `close` last."""

    def __init__(self, directory: Path, version: str) -> None:
        """Starts the recording process.

        Raises:
            MissingDependencyError: flux-data is not installed.
        """
        self._directory, self._version = directory, version
        self._process = RecorderProcess(directory, version)
        self._session: Session | RealtimeSession | None = None
        self._looks: SimulatedLooks | None = None
        self._episode: DatasetEpisode | None = None
        self._is_saving = False
        self._told = ""
        self._is_closed = False
        self._reason = ""
        self._num_before = 0
        self._counts: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()

    def open(self, session: Session | RealtimeSession) -> None:
        """Has the dataset opened, before the robot moves.

        Raises:
            UsageError: the folder holds something else, such as another robot's dataset.
            RobotError: a sensor delivers nothing, or the recording process has failed.
            StoppedBySignal: the operator stopped the run meanwhile.
        """
        hello = self._process.wait_for(("hello",), START_TIMEOUT_S)
        if hello is None:
            raise RobotError(f"--record-dataset: {self._process.describe_end()}")
        if hello["protocol"] != PROTOCOL_VERSION:
            raise RobotError(
                f"--record-dataset: expected a flux-data that speaks protocol {PROTOCOL_VERSION}, "
                f"got {hello['protocol']}. Install the same version of both"
            )
        spec = session.spec
        self._session = session
        cameras, extras = self._sensors(session)
        self._process.send(
            "dataset",
            robot=spec.name,
            fps=spec.control_hz,
            state=list(spec.state_names or spec.joint_names),
            action=list(spec.joint_names),
            is_realtime=isinstance(session, RealtimeSession),
            cameras=cameras,
            extras=extras,
        )
        answer = self._process.wait_for(("ready", "refused"), START_TIMEOUT_S)
        if answer is None:
            raise RobotError(f"--record-dataset: {self._process.describe_end()}")
        if answer["kind"] == "refused":
            kind = UsageError if answer["is_usage"] else DataError
            raise kind(f"--record-dataset: {answer['reason']}")
        self._num_before = answer["episodes"]

    def _sensors(
        self, session: Session | RealtimeSession
    ) -> tuple[dict[str, list[int]], dict[str, Any]]:
        """Connects the pictures' source with the recording process.

        Returns:
            camera -> [height, width], and what the driver says of its extras.
        """
        if isinstance(session, Session):
            self._looks = SimulatedLooks(session, FrameSender(self._process.frame_socket))
            return self._looks.sizes, {}
        try:
            found = session.driver.record(
                self._process.frame_socket.fileno(), cancelled=session.is_signalled
            )
        except DriverCancelled as error:
            raise StoppedBySignal(session.signals.signal) from error
        self._process.frame_socket.close()  # the driver's process has it
        # In the order of the rows' capture times.
        sizes = {name: found["cameras"][name] for name in session.source.cameras}
        return sizes, found["extras"]

    def begin(self, task: str) -> DatasetEpisode:
        """Begins the next episode, once the one before is on the disk.

        Raises:
            DataError: nothing can be recorded any more.
        """
        session = self._session
        assert session is not None
        is_realtime = isinstance(session, RealtimeSession)
        self._wait_until_saved(session.is_signalled if is_realtime else lambda: False)
        self.raise_if_failed()
        self._process.send("episode", task=task)
        self._episode = DatasetEpisode(session, self._process, self._looks)
        return self._episode

    def finish(self, result: EpisodeResult) -> None:
        """Ends the episode; it is written meanwhile."""
        episode, self._episode = self._episode, None
        if episode is None:
            return
        facts = {
            "outcome": result.outcome,
            "success": result.success,
            "stopped_by": result.stopped_by,
            "reason": result.reason,
            "seed": result.seed,
            "missed_steps": episode.num_missed,
        }
        self._dropped["rows"] += episode.num_dropped
        self._process.send("end", facts=facts, is_kept=episode.num_rows > 0)
        self._is_saving = True

    def raise_if_failed(self) -> None:
        """Raises if nothing can be recorded any more.

        Raises:
            DataError: the reason.
        """
        reason = self._failure()
        if reason:
            raise DataError(reason)

    def tell_of_failure(self) -> None:
        """Prints one line as soon as the recording has failed; the robot goes on."""
        reason = self._failure()
        if reason and not self._told:
            self._told = reason
            logger.error("%s. The run ends after this episode", reason)

    def _failure(self) -> str:
        """Returns why nothing can be recorded any more; '' if it can."""
        if self._is_closed:
            return self._reason
        process = self._process
        if process.failure:
            return f"--record-dataset: {process.failure}"
        if process.has_ended.is_set():
            return (
                f"--record-dataset: {process.describe_end()}. The episodes before are kept in "
                f"{self._directory}"
            )
        return ""

    def _wait_until_saved(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Waits until the last episode is on the disk, or `cancelled()` is true; takes in its
        counts."""
        if not self._is_saving:
            return
        kinds = ("saved", "lost")
        answer = self._process.wait_for(kinds, SLOW_S, cancelled)
        if answer is None and not self._process.has_ended.is_set() and not cancelled():
            logger.warning("--record-dataset: waiting for the last episode to be written")
            answer = self._process.wait_for(kinds, SAVE_TIMEOUT_S, cancelled)
        if answer is None and cancelled():
            return
        self._is_saving = False
        if answer is None:
            if not self._process.has_ended.is_set():
                self._process.failure = self._process.describe_end()
            return
        for name in ("rows", "pictures", "repeated"):
            self._counts[name] += answer.get(name, 0) if answer["kind"] == "saved" else 0
        self._dropped["rows"] += answer.get("dropped_rows", 0)
        self._dropped["pictures"] += answer.get("dropped_pictures", 0)
        if answer["kind"] == "saved":
            self._counts["episodes"] += 1
        elif answer["reason"]:
            self._dropped["rows"] += answer.get("rows", 0)
            if answer["reason"] != self._process.failure:  # which is raised
                logger.error("--record-dataset: an episode is lost: %s", answer["reason"])

    def report(self) -> dict[str, object]:
        """Returns what was recorded, as the report has it."""
        dropped = {name: self._dropped[name] for name in ("rows", "pictures")}
        return {
            "path": str(self._directory),
            "version": self._version,
            "episodes_before": self._num_before,
            **{name: self._counts[name] for name in ("episodes", "rows", "pictures", "repeated")},
            "dropped": dropped,
            "complete": not any(dropped.values()) and not self._failure(),
        }

    def close(self) -> None:
        """Waits until everything is on the disk, and ends the process.

        Raises:
            DataError: an episode could not be recorded.
        """
        try:
            if self._episode is not None:
                self._process.send("end", facts={}, is_kept=False)
                self._is_saving = True
            self._wait_until_saved()
            if self._session is not None:
                self._reason = self._failure()
                self._process.send("close")
                self._process.wait_for(("closed",), START_TIMEOUT_S)
        finally:
            self._is_closed = True
            self._process.close()
        if self._reason:
            raise DataError(self._reason)


class DatasetEpisode:
    """One episode on its way to the recording process; an `EpisodeLog`. Nothing here waits in real
    time, and nothing raises.

    Attributes:
        num_rows: handed over.
        num_dropped: rows that found no room.
    """

    def __init__(
        self,
        session: Session | RealtimeSession,
        process: RecorderProcess,
        looks: SimulatedLooks | None,
    ) -> None:
        spec = session.spec
        num_cameras = len(looks.sizes if looks is not None else session.source.cameras)
        self._dtype = rows_dtype(spec.state_dim, spec.action_dim, num_cameras)
        self._steps = ControlSteps(spec.control_hz, self._dtype)
        self._process = process
        self._looks = looks
        self.num_rows = self.num_dropped = 0

    @property
    def num_missed(self) -> int:
        """Control steps at which no command was sent."""
        return self._steps.num_missed

    def look(self) -> None:
        """Takes the pictures of the next step, on simulated time."""
        if self._looks is not None:
            self._looks.look()

    def add_rows(self, rows: Rows) -> None:
        """Sends the control steps among the next ticks."""
        steps = self._steps.take(rows) if self._looks is None else self._simulated(rows)
        most = max(1, MAX_PACKET_BYTES // self._dtype.itemsize)
        for first in range(0, len(steps), most):
            part = steps[first : first + most]
            is_needed = self._looks is not None  # which has waited for the pictures
            if self._process.send("rows", part.tobytes(), is_needed=is_needed, count=len(part)):
                self.num_rows += len(part)
            else:
                self.num_dropped += len(part)

    def _simulated(self, rows: Rows) -> Any:
        assert self._looks is not None
        steps = np.zeros(len(rows), self._dtype)
        steps["time_ns"] = steps["frames_ns"] = self._looks.time_ns
        steps["state"], steps["action"] = rows["state"], rows["command"]
        return steps

    def add_event(self, event: Event) -> None:
        """A dataset has no events."""

    def add_inference(self, times: InferenceTimes) -> None:
        """A dataset has no inferences."""


class SimulatedLooks:
    """Renders what the cameras of a robot on simulated time see, once per step.

    Attributes:
        time_ns: of the last look, counted in looks.
        sizes: (height, width) of each camera.
    """

    def __init__(self, session: Session, sender: FrameSender) -> None:
        """Renders once, to learn the sizes."""
        self._session, self._sender = session, sender
        self._cameras = tuple(session.source.cameras) or session.spec.cameras
        self.time_ns = 0
        images = self._images()
        self.sizes = {name: list(images[name].shape[:2]) for name in self._cameras}
        for name in self._cameras:
            sender.add_stream(name, images[name].shape, images[name].dtype)

    def look(self) -> None:
        """Hands a picture of each camera to the recording, and waits for room there."""
        self.time_ns += STEP_NS
        for name, image in self._images().items():
            self._sender.put(name, image, self.time_ns, is_waiting=True)

    def _images(self) -> dict[str, Any]:
        session = self._session
        return dict(session.robot.observe(session.prompt, self._cameras).images)


@contextmanager
def dataset_recorder(
    directory: Path | None, version: str | None
) -> Iterator[DatasetRecorder | None]:
    """Starts the recording process if a dataset is wanted, and ends it afterwards.

    Args:
        directory: of the dataset; None for none.
        version: of LeRobot's format; None for that of the dataset in `directory`, or v2.1.

    Raises:
        UsageError: a version without a directory.
        MissingDependencyError: flux-data is not installed.
        DataError: at the end, something could not be recorded.
    """
    if directory is None:
        if version is not None:
            raise UsageError("--to: expected --record-dataset DIR beside it, got none")
        yield None
        return
    recorder = DatasetRecorder(directory, version or _version_of(directory))
    try:
        yield recorder
    except BaseException as error:
        try:
            recorder.close()
        except DataError as second:
            if str(second) != str(error):
                logger.error("%s", second)
        raise
    recorder.close()


def _version_of(directory: Path) -> str:
    """Returns the version of the dataset that is there; what cannot be read is refused later."""
    try:
        found = json.loads((directory / "meta" / "info.json").read_bytes())["codebase_version"]
    except (OSError, ValueError, LookupError, TypeError):
        return DATASET_VERSIONS[0]
    return found if found in DATASET_VERSIONS else DATASET_VERSIONS[0]
