"""What a replay needs is written without loss and without waiting, or said to be missing."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_core.errors import DataError
from flux_core.types import Observation
from flux_runtime.control.episode_log import ChunkInputs
from flux_runtime.run.replay_file import (
    REPLAY_MAGIC,
    RecordKind,
    ReplayRecord,
    digest_of,
    dtype_data,
    dtype_of,
    pack,
    read_data,
    unpack,
)
from flux_runtime.run.replay_recording import ReplayRecording
from flux_runtime.run.replay_writer import ReplayWriter
from flux_runtime.run.stream import StreamReader, StreamWriter

WAIT_S = 20.0


class Disk(StreamWriter):
    """A file that takes nothing until it may."""

    def __init__(self, path: Path) -> None:
        self.may_write = threading.Event()
        self.may_write.set()
        super().__init__(path, {}, REPLAY_MAGIC)

    def append(self, kind: int, *parts: bytes | memoryview) -> None:
        assert self.may_write.wait(WAIT_S)
        super().append(kind, *parts)


def chunk(index: int, num_bytes: int = 1000) -> ReplayRecord:
    arrays = {"image": np.zeros(num_bytes, np.uint8)}
    return ReplayRecord(kind=RecordKind.CHUNK, data={"index": index}, arrays=arrays)


def records(path: Path) -> list[tuple[int, dict[str, Any]]]:
    reader = StreamReader(path, REPLAY_MAGIC)
    reader.read_header()
    return [(record.kind, read_data(record.payload)) for record in reader.records()]


@pytest.mark.parametrize("is_compressed", [False, True])
def test_arrays_come_back_bit_for_bit(is_compressed: bool) -> None:
    random = np.random.default_rng(0)
    padded = np.dtype({"names": ["a", "b"], "formats": ["u1", ("<f4", (3,))], "offsets": [0, 8]})
    ticks = np.zeros(5, padded)
    ticks["b"] = random.normal(size=(5, 3))
    arrays: dict[str, Any] = {
        "image": random.integers(0, 256, (60, 80, 3), np.uint8)[:, ::2],
        "noise": random.normal(size=(7, 3)).astype(np.float32),
        "odd": np.array([np.nan, -0.0, np.inf], np.float32),
        "mask": np.array([True, False]),
        "none": np.zeros((0, 3), np.float32),
        "ticks": ticks,
        "large": np.arange(5000.0),
    }
    record = ReplayRecord(
        kind=RecordKind.CHUNK, data={"index": 3}, arrays=arrays, only_digests=("large",)
    )
    found = unpack(b"".join(pack(record, is_compressed=is_compressed)))
    assert found.data == {"index": 3}
    assert found.digests == {"large": digest_of(arrays.pop("large"))}
    assert found.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found.arrays[name].dtype == array.dtype
        assert found.arrays[name].shape == array.shape
        assert found.arrays[name].tobytes() == array.tobytes()
    assert dtype_of(dtype_data(padded)) == padded


def test_a_slow_disk_delays_nobody_and_what_is_dropped_is_said(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "a.replay")
    disk.may_write.clear()
    writer = ReplayWriter(disk, is_waiting=False, queue_bytes=10_000)
    taken = [writer.put(chunk(i), "chunks", f"chunk {i}") for i in range(9)]
    assert taken == [True] * 5 + [False] * 4
    tick = ReplayRecord(kind=RecordKind.TICKS, data={})
    assert writer.put(tick, "ticks")  # has room of its own
    assert writer.dropped == {"chunks": 4}
    disk.may_write.set()
    writer.close()
    found = records(tmp_path / "a.replay")
    assert [data["index"] for kind, data in found if kind == RecordKind.CHUNK] == [0, 1, 2, 3, 4]
    (dropped,) = (data for kind, data in found if kind == RecordKind.DROPPED)
    assert (dropped["count"], dropped["first"], dropped["last"]) == (4, "chunk 5", "chunk 8")
    assert not writer.put(chunk(9), "chunks")


def test_on_simulated_time_whoever_records_waits(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "a.replay")
    writer = ReplayWriter(disk, is_waiting=True, queue_bytes=5_000)
    for index in range(50):
        assert writer.put(chunk(index, num_bytes=4_000), "chunks")
    writer.close()
    assert len(records(tmp_path / "a.replay")) == 50
    assert writer.dropped == {}


def test_a_full_disk_is_told_to_whoever_records_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = ReplayRecording(tmp_path / "a.replay", {}, is_realtime=False)

    def full(file: int, data: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        recording.add_start({"command": [0.0]})
        with pytest.raises(DataError, match=r"a\.replay: cannot be written \(No space left"):
            recording.finish({"outcome": "finished"})
    with pytest.raises(DataError, match="No space left"):
        recording.raise_if_failed()


def test_large_inputs_of_the_network_are_kept_as_digests_and_frames_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.replay"
    recording = ReplayRecording(path, {"clock": "simulated"}, is_realtime=False)
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    encoded = {"tokens": np.arange(4), "images": np.ones((1, 64, 64), np.float32)}
    observation = Observation(
        images={"top": image}, state=np.ones(2, np.float32), prompt="wave", timestamp_s=1.5
    )
    recording.add_chunk(ChunkInputs(request={"index": 0}, observation=observation, encoded=encoded))
    recording.finish({"outcome": "finished", "stopped_by": None, "reason": None})
    reader = StreamReader(path, REPLAY_MAGIC)
    assert reader.read_header() == {"clock": "simulated"}
    found = unpack(next(reader.records()).payload)
    assert np.array_equal(found.arrays["image/top"], image)
    assert np.array_equal(found.arrays["encoded/tokens"], encoded["tokens"])
    assert found.digests == {"encoded/images": digest_of(encoded["images"])}
