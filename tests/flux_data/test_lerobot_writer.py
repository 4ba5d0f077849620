"""Written datasets against a real one: the same files, keys, types and shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from flux_core.errors import DataError
from flux_core.robots import robot_spec
from flux_data.lerobot import open_lerobot
from flux_data.lerobot_writer import EpisodeWriter, ImageStats, Layout, write_metadata
from flux_data.video_writer import VideoWriter

HEIGHT, WIDTH, LENGTHS = 32, 48, (7, 5)
EPISODE = "data/chunk-000/episode_000000.parquet"


def layout(root: Path) -> Layout:
    spec = robot_spec("aloha")
    return Layout(root=root, spec=spec, cameras=spec.cameras, height=HEIGHT, width=WIDTH)


def frame(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (HEIGHT, WIDTH, 3)
    return {
        name: rng.integers(0, 256, shape, dtype=np.uint8) for name in robot_spec("aloha").cameras
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short episodes of noise."""
    target = layout(tmp_path_factory.mktemp("data") / "set")
    rng = np.random.default_rng(0)
    stats, episodes, first = [], [], 0
    for index, length in enumerate(LENGTHS):
        writer = EpisodeWriter(target, index, first)
        for step in range(length):
            state, action = rng.standard_normal((2, 14)).astype(np.float32)
            writer.add(state, action, frame(step))
        stats.append(writer.close())
        episodes.append({"episode_index": index, "tasks": ["stir"], "length": length})
        first += length
    write_metadata(target, "stir", episodes, stats)
    return target.root


@pytest.fixture(scope="module")
def real(shared_data: Path) -> Path:
    return shared_data / "lerobot" / "v21"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def info(root: Path) -> dict[str, Any]:
    return json.loads((root / "meta" / "info.json").read_text(encoding="utf-8"))


def structure(value: Any) -> Any:
    """Replaces numbers by their type, so that two statistics can be compared in form."""
    if isinstance(value, dict):
        return {key: structure(item) for key, item in value.items()}
    if isinstance(value, list):
        return [structure(item) for item in value]
    return type(value).__name__


def test_the_table_has_the_schema_of_a_real_one(written: Path, real: Path) -> None:
    ours, theirs = pq.read_schema(written / EPISODE), pq.read_schema(real / EPISODE)
    assert ours.names == theirs.names
    assert ours.types == theirs.types
    key = b"huggingface"
    assert json.loads(ours.metadata[key]) == json.loads(theirs.metadata[key])


def test_info_has_the_keys_and_features_of_a_real_one(written: Path, real: Path) -> None:
    ours, theirs = info(written), info(real)
    assert list(ours) == list(theirs)
    for key in ("codebase_version", "robot_type", "chunks_size", "fps", "data_path", "video_path"):
        assert ours[key] == theirs[key]
    assert list(ours["features"]) == list(theirs["features"])
    for key, feature in theirs["features"].items():
        if feature["dtype"] != "video":
            assert ours["features"][key] == feature
        else:
            assert structure(ours["features"][key]) == structure(feature)


def test_statistics_have_the_form_of_real_ones(written: Path, real: Path) -> None:
    ours, theirs = (lines(root / "meta" / "episodes_stats.jsonl")[0] for root in (written, real))
    assert ours.keys() == theirs.keys()
    assert structure(ours["stats"]) == structure(theirs["stats"])


def test_episodes_and_tasks_have_the_keys_of_real_ones(written: Path, real: Path) -> None:
    for name in ("episodes.jsonl", "tasks.jsonl"):
        ours, theirs = (lines(root / "meta" / name)[0] for root in (written, real))
        assert structure(ours) == structure(theirs)


def test_counters_run_on_over_the_episodes(written: Path) -> None:
    columns = open_lerobot(written).columns(["index", "frame_index", "episode_index", "timestamp"])
    np.testing.assert_array_equal(columns["index"], np.arange(sum(LENGTHS)))
    frames = np.concatenate([np.arange(length) for length in LENGTHS])
    np.testing.assert_array_equal(columns["frame_index"], frames)
    np.testing.assert_array_equal(columns["episode_index"], np.repeat([0, 1], LENGTHS))
    np.testing.assert_array_equal(columns["timestamp"], (frames / 50).astype(np.float32))


def test_the_totals_are_counted(written: Path) -> None:
    facts = info(written)
    assert (facts["total_episodes"], facts["total_frames"], facts["total_videos"]) == (2, 12, 6)
    assert facts["splits"] == {"train": "0:2"}


def test_frame_times_are_exact(written: Path) -> None:
    source = open_lerobot(written)
    for index, length in enumerate(LENGTHS):
        for key in source.video_keys:
            with av.open(str(source.video(key, index).path)) as video:
                times = [frame.pts * frame.time_base for frame in video.decode(video=0)]
            assert [time * 50 for time in times] == list(range(length))


def test_every_second_frame_is_a_keyframe_and_order_is_kept(written: Path) -> None:
    source = open_lerobot(written)
    with av.open(str(source.video(source.video_keys[0], 0).path)) as video:
        packets = [packet for packet in video.demux(video=0) if packet.size]
    assert [packet.is_keyframe for packet in packets] == [i % 2 == 0 for i in range(7)]
    assert all(packet.pts == packet.dts for packet in packets)


def test_a_smooth_video_comes_back_nearly_as_it_was(tmp_path: Path) -> None:
    ramp = np.linspace(0, 200, WIDTH, dtype=np.uint8)
    images = [np.broadcast_to(ramp[:, None] + i, (HEIGHT, WIDTH, 3)).copy() for i in range(6)]
    writer = VideoWriter(tmp_path / "video.mp4", 50, HEIGHT, WIDTH)
    for image in images:
        writer.add(image)
    writer.close()
    with av.open(str(tmp_path / "video.mp4")) as video:
        decoded = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    errors = [np.abs(a.astype(int) - b).mean() for a, b in zip(decoded, images, strict=True)]
    assert max(errors) < 3.0


def test_image_statistics_are_numpys() -> None:
    images = np.stack([frame(seed)["cam_high"] for seed in range(4)])
    stats = ImageStats()
    for image in images:
        stats.add(image)
    result, pixels = stats.result(), images.reshape(-1, 3) / 255.0
    assert result.pop("count") == [4]
    for name, values in result.items():
        expected = getattr(pixels, name)(axis=0).reshape(3, 1, 1)
        np.testing.assert_allclose(values, expected, rtol=1e-9, err_msg=name)


def test_a_state_of_another_robot_is_refused(tmp_path: Path) -> None:
    writer = EpisodeWriter(layout(tmp_path), 0, 0)
    short, full = np.zeros(7, dtype=np.float32), np.zeros(14, dtype=np.float32)
    with pytest.raises(DataError, match=r"observation.state: expected shape \(14,\), got \(7,\)"):
        writer.add(short, full, frame(0))


def test_a_missing_camera_is_named(tmp_path: Path) -> None:
    images = frame(0)
    del images["cam_left_wrist"]
    zeros = np.zeros(14, dtype=np.float32)
    with pytest.raises(DataError, match="no image of 'cam_left_wrist'. Given: cam_high, cam_right"):
        EpisodeWriter(layout(tmp_path), 0, 0).add(zeros, zeros, images)


def test_an_odd_size_is_refused_before_recording(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected even height and width, got 31x48"):
        VideoWriter(tmp_path / "video.mp4", 50, 31, 48)


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "video.mp4", 50, HEIGHT, WIDTH)
    with pytest.raises(
        DataError, match=r"video frame: expected \(32, 48, 3\) uint8, got \(8, 8, 3"
    ):
        writer.add(np.zeros((8, 8, 3), dtype=np.uint8))
