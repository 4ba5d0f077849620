"""Compares written datasets with a real one: the same files, keys, types and shapes."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flux_core.errors import DataError, UsageError
from flux_core.robots import robot_spec
from flux_data.lerobot.dataset import open_lerobot
from flux_data.lerobot.episode_stats import ImageStats
from flux_data.lerobot.new_folder import disk_errors
from flux_data.lerobot.recorder import EpisodeRecorder, robot_features, video_key
from flux_data.lerobot.video_copy import JoinedVideo
from flux_data.lerobot.writer import DatasetWriter, WriterV21, WriterV30
from flux_data.validate.rows import validate
from flux_data.video.writer import VideoWriter

HEIGHT, WIDTH, LENGTHS = 32, 48, (7, 5)
EPISODE = "data/chunk-000/episode_000000.parquet"


SPEC = robot_spec("aloha")
FEATURES = robot_features(SPEC, HEIGHT, WIDTH)


def images_of(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (HEIGHT, WIDTH, 3)
    return {video_key(name): rng.integers(0, 256, shape, dtype=np.uint8) for name in SPEC.cameras}


def write(root: Path, kind: type[DatasetWriter], lengths: tuple[int, ...] = LENGTHS) -> Path:
    """Records short episodes of noise."""
    rng = np.random.default_rng(0)
    with kind(root, fps=50.0, robot_type="aloha", features=FEATURES) as writer:
        for index, length in enumerate(lengths):
            with EpisodeRecorder(writer.staging(str(index)), 50.0, FEATURES) as recorder:
                for step in range(length):
                    state, action = rng.standard_normal((2, 14)).astype(np.float32)
                    recorder.add({"observation.state": state, "action": action, **images_of(step)})
                writer.add(recorder.close("stir"))
    return root


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "set", WriterV21)


@pytest.fixture(scope="module")
def written_v30(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "set", WriterV30)


@pytest.fixture(scope="module")
def real(shared_data: Path) -> Path:
    return shared_data / "lerobot" / "v21"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def info(root: Path) -> dict[str, Any]:
    return json.loads((root / "meta" / "info.json").read_text(encoding="utf-8"))


def structure(value: Any) -> Any:
    """Replaces numbers by their type, to compare the form of two statistics."""
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


def test_counters_continue_over_the_episodes(written: Path) -> None:
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


def test_a_smooth_video_is_nearly_unchanged_by_encoding(tmp_path: Path) -> None:
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
    images = np.stack([images_of(seed)[video_key("cam_high")] for seed in range(4)])
    stats = ImageStats()
    for image in images:
        stats.add(image)
    result, pixels = stats.result(), images.reshape(-1, 3) / 255.0
    assert result.pop("count") == [4]
    for name, values in result.items():
        expected = getattr(pixels, name)(axis=0).reshape(3, 1, 1)
        np.testing.assert_allclose(values, expected, rtol=1e-9, err_msg=name)


def test_a_state_of_another_robot_is_refused(tmp_path: Path) -> None:
    short, full = np.zeros(7, dtype=np.float32), np.zeros(14, dtype=np.float32)
    with (
        EpisodeRecorder(tmp_path, 50.0, FEATURES) as recorder,
        pytest.raises(DataError, match=r"observation.state: expected shape \(14,\), got \(7,\)"),
    ):
        recorder.add({"observation.state": short, "action": full, **images_of(0)})


def test_a_missing_camera_is_named(tmp_path: Path) -> None:
    images = images_of(0)
    del images[video_key("cam_left_wrist")]
    zeros = np.zeros(14, dtype=np.float32)
    with (
        EpisodeRecorder(tmp_path, 50.0, FEATURES) as recorder,
        pytest.raises(
            DataError, match="observation.images.cam_left_wrist: expected it in every frame"
        ),
    ):
        recorder.add({"observation.state": zeros, "action": zeros, **images})


def test_an_odd_size_is_refused_before_recording(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected even height and width, got 31x48"):
        VideoWriter(tmp_path / "video.mp4", 50, 31, 48)


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "video.mp4", 50, HEIGHT, WIDTH)
    with pytest.raises(
        DataError, match=r"video frame: expected \(32, 48, 3\) uint8, got \(8, 8, 3"
    ):
        writer.add(np.zeros((8, 8, 3), dtype=np.uint8))


def test_a_v30_dataset_holds_what_the_v21_one_does(written: Path, written_v30: Path) -> None:
    old, new = open_lerobot(written), open_lerobot(written_v30)
    assert new.info["codebase_version"] == "v3.0" and new.tasks == old.tasks
    keys = ["observation.state", "action", "timestamp", "index", "episode_index", "frame_index"]
    for key, column in new.columns(keys).items():
        np.testing.assert_array_equal(column, old.columns([key])[key])


def test_v30_metadata_has_the_form_of_real_one(written_v30: Path, shared_data: Path) -> None:
    real = shared_data / "lerobot" / "v30c"
    ours, theirs = info(written_v30), info(real)
    assert set(ours) == set(theirs)
    for key in ("data_path", "video_path", "chunks_size", "fps", "codebase_version"):
        assert ours[key] == theirs[key]
    name = "meta/episodes/chunk-000/file-000.parquet"
    ours, theirs = pq.read_schema(written_v30 / name), pq.read_schema(real / name)
    quantiles = ("/q01", "/q10", "/q50", "/q90", "/q99")
    assert {n for n in ours.names if not n.endswith(quantiles)} == set(theirs.names)
    for column in set(ours.names) & set(theirs.names):
        assert ours.field(column).type == theirs.field(column).type, column
    name = "data/chunk-000/file-000.parquet"
    assert pq.read_schema(written_v30 / name).names == pq.read_schema(real / name).names


def test_v30_statistics_are_exact_quantiles_included(written_v30: Path) -> None:
    stats = json.loads((written_v30 / "meta" / "stats.json").read_text())
    values = open_lerobot(written_v30).columns(["action"])["action"].astype(np.float64)
    for name, expected in {
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        "q01": np.quantile(values, 0.01, axis=0),
        "q99": np.quantile(values, 0.99, axis=0),
    }.items():
        np.testing.assert_allclose(stats["action"][name], expected, rtol=1e-6, err_msg=name)
    pixels = stats["observation.images.cam_high"]
    assert np.shape(pixels["mean"]) == (3, 1, 1) and pixels["count"] == [sum(LENGTHS)]


def test_full_files_are_followed_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WriterV30, "max_data_bytes", 2000)
    monkeypatch.setattr(WriterV30, "max_video_bytes", 14_000)
    monkeypatch.setattr(WriterV30, "max_episode_lines", 3)
    root = write(tmp_path / "set", WriterV30, (6, 5, 4, 3, 7, 5, 6))
    assert len(list(root.glob("data/chunk-000/*.parquet"))) > 2
    assert len(list(root.glob("videos/observation.images.cam_high/chunk-000/*.mp4"))) > 2
    assert len(list(root.glob("meta/episodes/chunk-000/*.parquet"))) == 3
    source = open_lerobot(root)
    assert source.lengths.tolist() == [6, 5, 4, 3, 7, 5, 6]
    assert validate(root) == []


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", [WriterV21, WriterV30])
def test_an_interruption_leaves_nothing_behind(tmp_path: Path, kind: type[DatasetWriter]) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        kind(tmp_path / "set", fps=50.0, robot_type="aloha", features=FEATURES) as writer,
    ):
        (writer.staging("0")).mkdir(parents=True)
        raise KeyboardInterrupt
    assert files_in(tmp_path) == []


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
from flux_data.commands.main import main
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("limit", [3_000, 7_000])
def test_a_full_disk_is_reported_in_one_line_and_leaves_nothing_behind(
    written: Path, tmp_path: Path, version: str, limit: int
) -> None:
    """No file may grow beyond `limit` bytes, so a table or a video cannot be finished."""
    command = [sys.executable, "-c", FULL_DISK, "", str(limit), "convert", str(written)]
    done = subprocess.run(
        [*command, "--to", version, "--out", str(tmp_path / "set")], capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert "flux-data: error:" in done.stderr and "Traceback" not in done.stderr
    assert "File too large" in done.stderr
    assert f"error: {tmp_path}" in done.stderr  # the source is not to blame
    assert files_in(tmp_path) == []


class Refusing:
    """Stands in for a container and fails on every packet."""

    def __init__(self, number: int) -> None:
        self.number = number

    def mux(self, _: object) -> None:
        raise av.error.FFmpegError(self.number, os.strerror(self.number))


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, r"joined.mp4: cannot be written \(No space left on device\)"),
        (errno.EINVAL, r"episode_000000.mp4: episode 0: cannot be copied, because its frames"),
    ],
)
def test_a_full_disk_is_distinguished_from_a_bad_source_video(
    written: Path, tmp_path: Path, number: int, message: str
) -> None:
    segment = open_lerobot(written).video(video_key("cam_high"), 0)
    with JoinedVideo(tmp_path / "joined.mp4", segment.path) as video:
        container = video._container
        video._container = Refusing(number)
        with pytest.raises(DataError, match=message):
            video.append(segment, np.arange(LENGTHS[0]) / 50, 50.0, "episode 0")
        video._container = container


def test_an_existing_dataset_is_not_overwritten(written: Path, tmp_path: Path) -> None:
    (tmp_path / "note").touch()
    with pytest.raises(
        UsageError, match="expected an empty folder, got files. Choose another --out"
    ):
        WriterV21(tmp_path, fps=50.0, robot_type="aloha", features=FEATURES)
    with pytest.raises(UsageError, match="expected a folder, got a file"):
        WriterV21(tmp_path / "note", fps=50.0, robot_type="aloha", features=FEATURES)


@pytest.mark.parametrize("place", ["/dev/null/x/y", "/proc/no/set", "/proc/set"])
def test_a_place_that_cannot_be_written_is_named(place: str) -> None:
    with (
        pytest.raises(DataError, match=f"{place}: cannot be written"),
        WriterV21(Path(place), fps=50.0, robot_type="aloha", features=FEATURES),
    ):
        pass


def test_a_link_to_an_empty_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "link", WriterV21, (2,))
    assert (tmp_path / "link").is_symlink() and files_in(tmp_path) == ["link", "real"]
    assert open_lerobot(tmp_path / "real").lengths.tolist() == [2]


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    alive = f".set.partial-{os.getppid()}"
    for name in (f".set.partial-{ended.pid}", alive, ".set.partial-mine", ".other.partial-1"):
        (tmp_path / name / "meta").mkdir(parents=True)
    write(tmp_path / "set", WriterV21, (2,))
    expected = [".other.partial-1", ".set.partial-mine", alive, "set"]
    assert files_in(tmp_path) == sorted(expected)


def test_values_that_do_not_fit_the_table_are_not_blamed_on_the_disk(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match="expected values that fit the table, got"),
        disk_errors(tmp_path),
    ):
        pa.array(["x", 5])


def test_an_episode_must_have_the_features_of_the_dataset(tmp_path: Path) -> None:
    features = {key: value for key, value in FEATURES.items() if key != "action"}
    with (
        pytest.raises(DataError, match="episode 0: expected the columns"),
        WriterV21(tmp_path / "set", fps=50.0, robot_type="aloha", features=FEATURES) as writer,
        EpisodeRecorder(writer.staging("0"), 50.0, features) as recorder,
    ):
        recorder.add({"observation.state": np.zeros(14, np.float32), **images_of(0)})
        writer.add(recorder.close("stir"))
