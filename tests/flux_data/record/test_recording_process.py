"""The recording process: rows are paired with the newest pictures of their time."""

from __future__ import annotations

import errno
import json
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_core.errors import DataError
from flux_data.lerobot.dataset import open_lerobot
from flux_data.record.packets import MessageSocket, rows_dtype
from flux_data.record.recording import RecordingProcess
from flux_data.record.streams import Streams
from flux_data.validate.rows import validate
from flux_data.video.reader import VideoReader
from flux_driver.recording import FrameSender

from .made_episodes import FPS, HEIGHT, WIDTH, dataset_message

TOP, DEPTH = "observation.images.top", "observation.images.top_depth"
PERIOD_NS = round(1e9 / FPS)
ANSWER_S = 20.0


class Run:
    """Stands for a run and its driver; the recording process is a thread."""

    def __init__(self, root: Path, version: str = "v3.0", **changes: Any) -> None:
        self.root = root
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        frames, its_frames = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.frames = FrameSender(frames)
        process = RecordingProcess(
            root,
            version,
            MessageSocket(theirs.detach()),
            Streams(MessageSocket(its_frames.detach())),
        )
        self.thread = threading.Thread(target=process.run)
        self.thread.start()
        message = dataset_message(cameras={"top": [HEIGHT, WIDTH]}, **changes)
        self.frames.add_stream("top", (HEIGHT, WIDTH, 3), np.uint8)
        for name, extra in message["extras"].items():
            dtype = np.uint16 if extra["kind"] == "depth" else np.float32
            self.frames.add_stream(name, extra["shape"], dtype)
        self.extras = tuple(message["extras"])
        self.wait_for("hello")
        self.send("dataset", **message)

    def send(self, kind: str, payload: bytes = b"", **data: Any) -> None:
        self._socket.send(json.dumps({"kind": kind, **data}).encode() + b"\n" + payload)

    def wait_for(self, kind: str) -> dict[str, Any]:
        while select.select([self._socket], [], [], ANSWER_S)[0]:
            message = json.loads(self._socket.recv(1 << 18).split(b"\n")[0])
            if message["kind"] == kind:
                return message
        raise TimeoutError(kind)

    def show(self, number: int, at_ns: int, *names: str) -> None:
        """Delivers picture `number` of all sensors, or of some."""
        values = {
            "top": np.full((HEIGHT, WIDTH, 3), 5 * number, np.uint8),
            "top_depth": np.full((HEIGHT, WIDTH), number, np.uint16),
            "base": np.array([number, -number], np.float32),
        }
        for name in names or ("top", *self.extras):
            self.frames.put(name, values[name], at_ns)

    def rows(self, *times: tuple[int, int]) -> None:
        """Sends rows, each with the time of the command and of the newest picture."""
        rows = np.zeros(len(times), rows_dtype(2, 2, 1))
        for row, (time_ns, frame_ns) in zip(rows, times, strict=True):
            row["time_ns"], row["frames_ns"] = time_ns, frame_ns
            row["state"] = time_ns / PERIOD_NS
        self.send("rows", rows.tobytes(), count=len(rows))

    def end(self) -> None:
        """Ends without a word, as a process that is killed."""
        self._socket.close()
        self.frames.close()
        self.thread.join()


@contextmanager
def run_to(root: Path, version: str = "v3.0", **changes: Any) -> Iterator[Run]:
    run = Run(root, version, **changes)
    try:
        yield run
    finally:
        run.end()


def shown(root: Path, episode: int = 0) -> list[int]:
    """The number of the picture that each row of an episode has."""
    source, reader = open_lerobot(root), VideoReader()
    video = source.video(TOP, episode)
    return [
        round(float(reader.frame(video.path, video.start_s + row / FPS, 0.5 / FPS).mean()) / 5)
        for row in range(int(source.lengths[episode]))
    ]


FACTS = {"outcome": "finished", "success": True, "stopped_by": None, "reason": None, "seed": 0}


def test_each_row_has_the_newest_picture_of_its_time(tmp_path: Path) -> None:
    """A picture comes every 1.5 rows; the third was never handed over."""
    with run_to(tmp_path / "set") as run:
        run.wait_for("ready")
        stamps = [round((1 + 1.5 * number) * PERIOD_NS) for number in range(5)]
        for number, stamp in enumerate(stamps):
            if number != 2:
                run.show(number, stamp)
        run.send("episode", task="go")
        newest = [0, 1, 1, 2, 3, 3]
        run.rows(*((round((1.9 + row) * PERIOD_NS), stamps[n]) for row, n in enumerate(newest)))
        run.send("end", facts=FACTS, is_kept=True)
        saved = run.wait_for("saved")
        run.send("close")
        run.wait_for("closed")
    assert validate(run.root) == []
    assert shown(run.root) == [0, 1, 1, 1, 3, 3]
    assert (saved["rows"], saved["dropped_pictures"], saved["dropped_rows"]) == (6, 1, 0)
    columns = open_lerobot(run.root).columns(["observation.state", "observation.base"])
    state = np.asarray(columns["observation.state"], np.float64)
    np.testing.assert_allclose(state[:, 0], 1.9 + np.arange(6), atol=1e-5)
    assert columns["observation.base"][:, 0].tolist() == [0, 1, 1, 1, 3, 3]


def test_an_extra_that_has_stopped_is_counted(tmp_path: Path) -> None:
    """The camera goes on, and the depth and the base do not."""
    with run_to(tmp_path / "set") as run:
        run.wait_for("ready")
        run.show(1, PERIOD_NS)
        run.send("episode", task="go")
        for row in (1, 2, 40):
            run.show(1, row * PERIOD_NS, "top")
            run.rows((row * PERIOD_NS, row * PERIOD_NS))
        run.send("end", facts=FACTS, is_kept=True)
        saved = run.wait_for("saved")
    assert (saved["rows"], saved["dropped_pictures"]) == (3, 2)


def test_a_row_before_the_first_picture_is_dropped_and_counted(tmp_path: Path) -> None:
    with run_to(tmp_path / "set", extras={}) as run:
        run.send("episode", task="go")
        run.rows((1 * PERIOD_NS, 0))
        run.wait_for("ready")
        run.show(1, 2 * PERIOD_NS)
        run.rows((2 * PERIOD_NS, 2 * PERIOD_NS))
        run.send("end", facts=FACTS, is_kept=True)
        saved = run.wait_for("saved")
    assert (saved["rows"], saved["dropped_rows"]) == (1, 1)
    assert shown(run.root) == [1]


def test_the_last_picture_of_an_episode_is_there_for_the_next_one(tmp_path: Path) -> None:
    with run_to(tmp_path / "set", extras={}) as run:
        run.show(3, 1 * PERIOD_NS)
        for row in (1, 2):
            run.send("episode", task="go")
            run.rows((row * PERIOD_NS, PERIOD_NS))
            run.send("end", facts=FACTS, is_kept=True)
            run.wait_for("saved")
    assert (shown(run.root, 0), shown(run.root, 1)) == ([3], [3])


@pytest.mark.parametrize("is_paused", [False, True])
def test_pictures_that_nobody_waits_for_leave_room_for_newer_ones(
    tmp_path: Path, is_paused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before an episode, and while it is paused."""
    monkeypatch.setattr("flux_data.record.recording.IDLE_S", 0.0)
    with run_to(tmp_path / "set", extras={}) as run:
        run.wait_for("ready")
        if is_paused:
            run.show(1, 10_000)
            run.send("episode", task="go")
            run.rows((10_000, 10_000))
        for number in range(2, 2000):
            image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            run.frames.put("top", image, 10_000 * number, is_waiting=True)
        newest = PERIOD_NS
        run.frames.put("top", np.full((HEIGHT, WIDTH, 3), 35, np.uint8), newest, True)
        if not is_paused:
            run.send("episode", task="go")
        run.rows((2 * PERIOD_NS, newest))
        run.send("end", facts=FACTS, is_kept=True)
        saved = run.wait_for("saved")
    assert saved["dropped_pictures"] == 0
    assert shown(run.root) == [1] * is_paused + [7]


def test_a_run_that_is_killed_loses_only_the_episode_that_went_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with run_to(tmp_path / "set") as run:
        run.show(1, PERIOD_NS)
        for _ in range(2):
            run.send("episode", task="go")
            run.rows((PERIOD_NS, PERIOD_NS), (2 * PERIOD_NS, PERIOD_NS))
            run.send("end", facts=FACTS, is_kept=True)
            run.wait_for("saved")
        run.send("episode", task="go")
        run.rows((PERIOD_NS, PERIOD_NS))
    assert "the run has ended within an episode, which is left out" in capsys.readouterr().err
    assert validate(run.root) == []
    assert open_lerobot(run.root).num_episodes == 2


def test_an_encoder_that_fails_is_told_at_once_and_costs_the_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise DataError("top.mp4: cannot be written (No space left on device)")

    with run_to(tmp_path / "set", extras={}) as run:
        run.wait_for("ready")
        run.show(1, PERIOD_NS)
        with monkeypatch.context() as patched:
            patched.setattr("flux_data.video.writer.VideoWriter.add", fail)
            run.send("episode", task="go")
            run.rows((PERIOD_NS, PERIOD_NS))
            assert "No space left on device" in run.wait_for("failed")["reason"]
            run.rows((2 * PERIOD_NS, PERIOD_NS))  # the run goes on
            run.send("end", facts=FACTS, is_kept=True)
            assert "No space left on device" in run.wait_for("lost")["reason"]
    assert not run.root.exists()


def test_a_disk_that_is_full_at_the_end_of_an_episode_is_told_before_its_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with run_to(tmp_path / "set", extras={}) as run:
        run.wait_for("ready")
        run.show(1, PERIOD_NS)
        run.send("episode", task="go")
        run.rows((PERIOD_NS, PERIOD_NS))
        monkeypatch.setattr("flux_data.record.growing.sync", full)
        run.send("end", facts=FACTS, is_kept=True)
        reason = run.wait_for("failed")["reason"]
        assert reason.endswith("No space left on device). The episodes before it are kept")
        assert run.wait_for("lost")["reason"] == reason


def test_a_dataset_of_another_robot_is_refused(tmp_path: Path) -> None:
    with run_to(tmp_path / "set", extras={}) as run:
        run.show(1, PERIOD_NS)
        run.send("episode", task="go")
        run.rows((PERIOD_NS, PERIOD_NS))
        run.send("end", facts=FACTS, is_kept=True)
        run.wait_for("saved")
    with run_to(tmp_path / "set", extras={}, robot="other") as run:
        refused = run.wait_for("refused")
    assert refused["is_usage"]
    assert "robot_type 'other', as this run records, got 'arm'" in refused["reason"]
