"""The recording process: pairs the rows of a run with pictures, and makes episodes of them."""

from __future__ import annotations

import select
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError, FluxError, UsageError

from ..lerobot.recorder import depth_feature, vector_feature, video_feature, video_key
from ..lerobot.stored_columns import Features
from .growing import GROWING, GrowingDataset
from .live_episode import LiveEpisode, Picture
from .packets import PROTOCOL_VERSION, MessageSocket, Packet, rows_dtype
from .streams import Streams

POLL_MS = 20
OLD_NS = 1_000_000_000
"""An extra that is older has stopped: the driver has no bound for its age."""
IDLE_S = 1.0
"""Without rows for so long, the episode is paused, or it waits for its mark."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run records.

    Attributes:
        features: as info.json has them.
        cameras: the policy's, in the order of a row's capture times.
        extras: what the driver delivers beside: name -> feature.
        rows: the fields of a row.
        is_realtime: whether pictures arrive whether there are rows or not.
    """

    features: Features
    cameras: tuple[str, ...]
    extras: Mapping[str, str]
    rows: np.dtype[np.void]
    is_realtime: bool


def plan_of(data: Mapping[str, Any]) -> Plan:
    """Returns the plan that a run's `dataset` message describes.

    Raises:
        UsageError: a camera's pictures cannot be stored as a video.
    """
    fps, cameras = data["fps"], data["cameras"]
    for name, (height, width) in cameras.items():
        if height % 2 or width % 2:
            raise UsageError(
                f"{name}: expected an even height and width, as videos need, got {height} x "
                f"{width}. Change the size in the camera's settings"
            )
    features: dict[str, Any] = {
        "observation.state": vector_feature(tuple(data["state"])),
        "action": vector_feature(tuple(data["action"])),
    }
    features |= {
        video_key(name): video_feature(size[0], size[1], fps) for name, size in cameras.items()
    }
    extras: dict[str, str] = {}
    for name, extra in data["extras"].items():
        is_depth = extra["kind"] == "depth"
        extras[name] = video_key(name) if is_depth else f"observation.{name}"
        features[extras[name]] = (
            depth_feature(*extra["shape"]) if is_depth else vector_feature(tuple(extra["names"]))
        )
    return Plan(
        features=features,
        cameras=tuple(cameras),
        extras=extras,
        rows=rows_dtype(len(data["state"]), len(data["action"]), len(cameras)),
        is_realtime=data["is_realtime"],
    )


class EpisodeBeingRecorded:
    """Pairs rows with pictures.

    Attributes:
        live: receives them.
        counts: rows and pictures stored; `repeated` pictures that are the one of the row before;
            dropped rows, and pictures that are older than the newest at their row.
    """

    def __init__(self, live: LiveEpisode, plan: Plan, streams: Streams | None, task: str) -> None:
        self.live, self.task = live, task
        self.counts = dict.fromkeys(
            ("rows", "pictures", "repeated", "dropped_rows", "dropped_pictures"), 0
        )
        self._plan, self._streams = plan, streams
        self._dropped = dict.fromkeys(plan.extras, 0)

    def _stream(self, name: str) -> Any:
        assert self._streams is not None
        return self._streams[name]

    def add(self, row: NDArray[np.void]) -> None:
        """Appends a row with the pictures of its time."""
        plan, is_first = self._plan, self.live.length == 0
        pictures: dict[str, Picture | None] = {}
        vectors = {"observation.state": row["state"].copy(), "action": row["action"].copy()}
        times = dict(zip(plan.cameras, row["frames_ns"].tolist(), strict=True))
        changed: dict[str, bool] = {}
        for name in (*plan.cameras, *plan.extras):
            stream = self._stream(name)
            changed[name] = stream.advance(times.get(name, int(row["time_ns"])))
            if stream.current is None:
                self.counts["dropped_rows"] += 1
                return
        for name in plan.cameras:
            self.counts["dropped_pictures"] += not self._stream(name).is_at(times[name])
        for name in plan.extras:
            self.counts["dropped_pictures"] += self._is_old(name, int(row["time_ns"]), is_first)
        for name, key in ((name, plan.extras.get(name) or video_key(name)) for name in changed):
            current = self._stream(name).current
            if plan.features[key]["dtype"] in ("video", "image"):
                is_new = is_first or changed[name]
                pictures[key] = current.picture() if is_new else None
                self.counts["pictures"] += 1
                self.counts["repeated"] += not is_new
            else:
                vectors[key] = current.pixels.astype(np.float32)
        self.live.add(vectors, pictures)
        self.counts["rows"] += 1

    def _is_old(self, name: str, time_ns: int, is_first: bool) -> bool:
        """Whether a newer reading of an extra is missing, as far as that can be known."""
        stream = self._stream(name)
        is_dropped = not is_first and stream.dropped > self._dropped[name]
        self._dropped[name] = stream.dropped
        return is_dropped or time_ns - stream.current.time_ns > OLD_NS


class RecordingProcess:
    """Serves one run until it closes the recording, or ends."""

    def __init__(
        self, directory: Path, version: str, packets: MessageSocket, streams: Streams | None
    ) -> None:
        self._directory, self._version = directory, version
        self._packets, self._streams = packets, streams
        self._plan: Plan | None = None
        self._dataset: GrowingDataset | None = None
        self._episode: EpisodeBeingRecorded | None = None
        self._num_begun = 0
        self._last_rows_s = 0.0
        self._finishing: threading.Thread | None = None
        self._sending = threading.Lock()
        self._failure = ""
        self._has_told = False
        self._is_over = False

    def run(self) -> None:
        """Takes in messages until the run is over; what is recorded is on the disk then."""
        try:
            poll = select.poll()
            poll.register(self._packets.fileno(), select.POLLIN)
            if self._streams is not None:
                poll.register(self._streams.fileno(), select.POLLIN)
            self._tell("hello", protocol=PROTOCOL_VERSION)
            while not self._is_over:
                poll.poll(POLL_MS)
                self._turn(poll)
        finally:
            self._end()

    def _turn(self, poll: select.poll) -> None:
        packets: list[Packet] = []
        is_gone = False
        try:
            while len(packets) < 64:
                packets.append(self._packets.receive())
        except BlockingIOError:
            pass
        except EOFError:
            is_gone = True
        self._drain(poll)  # after the rows, so that the pictures that they name are there
        for packet in packets:
            self._take(packet)
        if not packets:
            self._trim(poll)
        if is_gone and not self._is_over:
            self._abandon()
        self._tell_of_failure()

    def _drain(self, poll: select.poll) -> None:
        if self._streams is None or not self._streams.is_open:
            return
        self._streams.drain()
        if not self._streams.is_open:
            poll.unregister(self._streams.fileno())

    def _trim(self, poll: select.poll) -> None:
        """Gives old pictures back while there are no rows, of which none may have arrived since."""
        if self._streams is None or self._plan is None or not self._plan.is_realtime:
            return
        has_rows = time.monotonic() - self._last_rows_s < IDLE_S and self._episode is not None
        if not has_rows and self._packets.fileno() not in dict(poll.poll(0)):
            self._streams.trim()

    def _take(self, packet: Packet) -> None:
        data = packet.data
        if packet.kind == "dataset":
            self._open(data)
        elif packet.kind == "episode":
            self._begin(data["task"])
        elif packet.kind == "rows" and self._episode is not None and self._plan is not None:
            self._last_rows_s = time.monotonic()
            for row in np.frombuffer(packet.payload, self._plan.rows):
                self._episode.add(row)
        elif packet.kind == "end":
            self._finish(data["facts"], data["is_kept"])
        elif packet.kind == "close":
            self._wait_until_finished()
            self._tell("closed")
            self._is_over = True

    def _open(self, data: Mapping[str, Any]) -> None:
        try:
            self._plan = plan_of(data)
            dataset = GROWING[self._version](
                self._directory,
                fps=data["fps"],
                robot_type=data["robot"],
                features=self._plan.features,
            )
            dataset.__enter__()
        except FluxError as error:
            self._tell("refused", reason=str(error), is_usage=isinstance(error, UsageError))
            self._is_over = True
            return
        self._dataset = dataset
        self._tell("ready", episodes=len(dataset.episodes))

    def _begin(self, task: str) -> None:
        assert self._dataset is not None and self._plan is not None
        self._drop_episode()
        self._num_begun += 1
        folder = self._dataset.staging(str(self._num_begun))
        try:
            live = LiveEpisode(folder, self._dataset.fps, self._plan.features)
        except (DataError, OSError) as error:
            self._fail(f"{self._directory}: the episode cannot be recorded ({error})")
            return
        self._episode = EpisodeBeingRecorded(live, self._plan, self._streams, task)

    def _finish(self, facts: Mapping[str, object], is_kept: bool) -> None:
        """Completes the episode on a thread, so that pictures are taken in meanwhile."""
        episode, self._episode, before = self._episode, None, self._finishing
        self._finishing = threading.Thread(
            target=self._complete, args=(episode, dict(facts), is_kept, before), name="flux-finish"
        )
        self._finishing.start()

    def _complete(
        self,
        episode: EpisodeBeingRecorded | None,
        facts: dict[str, object],
        is_kept: bool,
        before: threading.Thread | None,
    ) -> None:
        if before is not None:
            before.join()
        if episode is None:
            self._tell("lost", reason=self._failure or "the episode was not begun")
            return
        dataset = self._dataset
        assert dataset is not None
        with episode.live as live:
            counts = episode.counts
            if not is_kept or not live.length:
                self._tell("lost", reason="" if not is_kept else "it has no complete row", **counts)
                return
            facts |= {key: counts[key] for key in ("dropped_rows", "dropped_pictures")}
            try:
                dataset.add(live.close(episode.task, facts))
            except (DataError, OSError) as error:
                self._fail(str(error))
                self._tell_of_failure()  # first, so that the run begins no other episode
                self._tell("lost", reason=self._failure, **counts)
                return
        self._tell("saved", episode=len(dataset.episodes) - 1, **counts)

    def _tell_of_failure(self) -> None:
        """Tells the run as soon as the running episode cannot be recorded any more."""
        if not self._failure and self._episode is not None and self._episode.live.failure:
            self._failure = str(self._episode.live.failure)
        if self._failure and not self._has_told:
            self._has_told = True
            self._tell("failed", reason=self._failure)

    def _fail(self, reason: str) -> None:
        self._failure = self._failure or reason

    def _abandon(self) -> None:
        """The run has ended without closing the recording: its last episode is left out."""
        self._is_over = True
        if self._episode is not None:
            print(
                f"flux-data record: {self._directory}: the run has ended within an episode, which "
                f"is left out; the episodes before it are complete",
                file=sys.stderr,
            )

    def _drop_episode(self) -> None:
        if self._episode is not None:
            self._episode.live.__exit__()
            self._episode = None

    def _wait_until_finished(self) -> None:
        if self._finishing is not None:
            self._finishing.join()

    def _end(self) -> None:
        self._wait_until_finished()
        self._drop_episode()
        if self._dataset is not None:
            self._dataset.__exit__(None, None, None)

    def _tell(self, kind: str, **data: object) -> None:
        with self._sending:
            try:
                self._packets.send(kind, **data)
            except OSError:
                return  # the run has ended
