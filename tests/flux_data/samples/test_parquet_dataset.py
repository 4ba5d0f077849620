"""Compares windows and frames with those of the real LeRobotDataset for the same files."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from flux_core.errors import ConfigError, DataError
from flux_core.transforms import RelativeActions
from flux_data.lerobot.dataset import open_lerobot
from flux_data.samples.collate import DictCollator
from flux_data.samples.mixture import DistributedRepeatingDataset, EpochBatches
from flux_data.samples.process_inputs import ProcessParquetInputs
from flux_data.samples.windows import ParquetDataset
from flux_data.video.reader import VideoReader

CAMERAS = ("cam_high", "cam_left_wrist", "cam_right_wrist")


@pytest.fixture(scope="module")
def v21(shared_data: Path) -> Path:
    return shared_data / "lerobot" / "v21"


@pytest.fixture(scope="module", params=["v21", "v30c"])
def lerobot(request: pytest.FixtureRequest, shared_data: Path) -> tuple[Path, dict]:
    """A dataset and what the real LeRobotDataset returns for it."""
    folder = shared_data / "lerobot"
    return folder / request.param, load_file(folder / f"dataset_{request.param}_pyav.safetensors")


def dataset_config(root: Path, **settings: object) -> ParquetDataset.Config:
    inputs = ProcessParquetInputs(
        parquet_keys=("observation.state", "actions", "timestamp"),
        video_keys=tuple(f"observation.images.{name}" for name in CAMERAS),
    )
    defaults = {"action_window_size": 50, "action_key": "action", "window_start_idx": 0}
    return ParquetDataset.Config(
        data_root_path=str(root), transforms=(inputs,), **{**defaults, **settings}
    )


def barcode(image: np.ndarray) -> int:
    """The number in the top 32 rows of a shared frame: (episode << 10) | (frame << 2) | camera."""
    centres = image[8:24, :640].reshape(16, 20, 32, 3)[:, :, 8:24].mean(axis=(0, 2, 3))
    return int(sum(int(bit) << i for i, bit in enumerate(centres > 127)))


def test_samples_equal_lerobots(lerobot: tuple[Path, dict]) -> None:
    root, lerobot = lerobot
    dataset = dataset_config(root).build()
    for row, index in enumerate(lerobot["index"]):
        sample = dataset[int(index)]
        np.testing.assert_array_equal(sample["states"], lerobot["observation.state"][row])
        np.testing.assert_array_equal(sample["actions"], lerobot["action"][row])
        np.testing.assert_array_equal(sample["action_masks"], ~lerobot["action_is_pad"][row])
        for camera, image in zip(CAMERAS, sample["images"], strict=True):
            means = image.mean(axis=(0, 1)) / 255.0
            name = next(n for n in lerobot if n.startswith("mean.") and n.endswith(camera))
            np.testing.assert_allclose(means, lerobot[name][row], atol=2e-3)


@pytest.mark.parametrize("episodes", [4, pytest.param(12, marks=pytest.mark.slow)])
@pytest.mark.parametrize("version", ["v21", "v30c"])
def test_every_frame_decodes_to_the_right_frame(
    version: str, episodes: int, shared_data: Path
) -> None:
    """In order and camera by camera, so that each next frame needs no seek."""
    source = open_lerobot(shared_data / "lerobot" / version)
    assert source.num_episodes == 12
    reader = VideoReader(max_open=3)
    for position in range(episodes):
        for camera, name in enumerate(CAMERAS):
            segment = source.video(f"observation.images.{name}", position)
            for frame in range(int(source.lengths[position])):
                time_s = segment.start_s + frame / source.fps
                image = reader.frame(segment.path, time_s, 0.5 / source.fps)
                assert barcode(image) == (position << 10) | (frame << 2) | camera


@pytest.mark.parametrize("version", ["v21", "v30c"])
def test_frames_in_any_order_are_the_right_frames(version: str, shared_data: Path) -> None:
    source = open_lerobot(shared_data / "lerobot" / version)
    reader = VideoReader(max_open=4)
    generator = np.random.default_rng(0)
    for row in generator.permutation(source.num_frames)[:60]:
        position, frame = source.locate(int(row))
        camera = int(row) % 3
        segment = source.video(f"observation.images.{CAMERAS[camera]}", position)
        # A frame, the same again, then frames one, three, two ahead and one behind.
        for shift in (0, 0, 1, 3, 2, -1):
            wanted = min(max(frame + shift, 0), 149)
            time_s = segment.start_s + wanted / source.fps
            image = reader.frame(segment.path, time_s, 0.5 / source.fps)
            assert barcode(image) == (position << 10) | (wanted << 2) | camera


def test_a_share_of_the_samples_shows_a_frame_of_another_task(v21: Path) -> None:
    source = open_lerobot(v21)
    usual, mixed = (
        dataset_config(v21, action_window_size=2, pictures_of_other_tasks=share).build()
        for share in (0.0, 0.25)
    )
    others = 0
    for index in range(0, source.num_frames, 30):
        sample, same = mixed[index], usual[index]
        for name in ("states", "actions", "task_description"):
            np.testing.assert_array_equal(sample[name], same[name])
        shown = [barcode(image) for image in sample["images"]]
        if shown == [barcode(image) for image in same["images"]]:
            continue
        others += 1
        assert [number & 3 for number in shown] == [0, 1, 2]
        assert len({number >> 2 for number in shown}) == 1  # one frame, of all cameras
        first_row = int(source.lengths[: shown[0] >> 10].sum())
        assert usual.raw_sample(first_row).task != sample["task_description"]
    assert 5 <= others <= 25  # of 60: 15 expected
    np.testing.assert_array_equal(mixed[30]["images"], mixed[30]["images"])


def test_pictures_of_other_tasks_need_another_task(v21: Path, tmp_path: Path) -> None:
    root = tmp_path / "one_task"
    shutil.copytree(v21, root)
    tasks = root / "meta" / "tasks.jsonl"
    only = json.loads(tasks.read_text().splitlines()[0])["task"]
    lines = (json.dumps({"task_index": index, "task": only}) for index in range(4))
    tasks.write_text("".join(f"{line}\n" for line in lines))
    dataset = dataset_config(root, pictures_of_other_tasks=0.9).build()
    with pytest.raises(DataError, match=f"several tasks, got '{only}'"):
        for index in range(10):
            dataset[index]
    with pytest.raises(ConfigError, match=r"at least 0 and less than 1, got 1\.0"):
        dataset_config(v21, pictures_of_other_tasks=1.0)


def test_a_real_robots_recording_can_be_read(shared_data: Path) -> None:
    source = open_lerobot(shared_data / "lerobot" / "g1_real")
    config = dataset_config(source.root)
    inputs = ProcessParquetInputs(
        parquet_keys=("observation.state", "actions"), video_keys=source.video_keys
    )
    dataset = dataclasses.replace(config, transforms=(inputs,)).build()
    assert len(dataset) == source.num_frames == 3027
    for index in (0, 392, 393, 3026):
        sample = dataset[index]
        assert sample["states"].shape == (26,) and sample["images"].shape == (1, 480, 640, 3)
        assert sample["images"].std() > 10


def test_a_time_between_frames_or_past_the_end_is_an_error(v21: Path) -> None:
    path = open_lerobot(v21).video("observation.images.cam_high", 0).path
    with pytest.raises(DataError, match="no frame within"):
        VideoReader().frame(path, 9.0, 0.01)
    with pytest.raises(DataError, match="missing"):
        VideoReader().frame(path.with_name("episode_999999.mp4"), 0.0, 0.01)


def test_next_states_can_be_the_actions(v21: Path) -> None:
    dataset = dataset_config(v21, action_key="observation.state", window_start_idx=1).build()
    states = dataset.column("observation.state")
    sample = dataset[10]
    np.testing.assert_array_equal(sample["actions"], states[11:61])
    # The last frame of an episode has no next state, so it is not a sample.
    assert len(dataset) == 12 * 149
    last = dataset[148]
    assert last["action_masks"].sum() == 1
    np.testing.assert_array_equal(last["actions"], np.repeat(states[149:150], 50, axis=0))
    np.testing.assert_array_equal(dataset[149]["states"], states[150])


def test_a_camera_that_the_dataset_lacks_is_named(v21: Path) -> None:
    inputs = ProcessParquetInputs(
        parquet_keys=("observation.state",), video_keys=("observation.images.cam_wrist",)
    )
    config = ParquetDataset.Config(data_root_path=str(v21), transforms=(inputs,))
    with pytest.raises(
        DataError, match=r"a camera of the dataset .*cam_high.*got 'observation.images.cam_wrist'"
    ):
        config.build()


def test_a_folder_that_is_not_a_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Is .* a LeRobot dataset"):
        open_lerobot(tmp_path)


def test_another_format_version_is_named(v21: Path, tmp_path: Path) -> None:
    shutil.copytree(v21 / "meta", tmp_path / "meta")
    info = json.loads((tmp_path / "meta" / "info.json").read_text())
    info["codebase_version"] = "v1.6"
    (tmp_path / "meta" / "info.json").chmod(0o644)
    (tmp_path / "meta" / "info.json").write_text(json.dumps(info))
    with pytest.raises(
        DataError, match=r"expected codebase_version v2\.0, v2\.1, v3\.0, got v1\.6"
    ):
        open_lerobot(tmp_path)


def test_an_epoch_shows_every_sample_once_over_all_ranks_in_a_new_order(v21: Path) -> None:
    config = DistributedRepeatingDataset.Config(datasets=dataset_config(v21))
    dataset = config.build()
    ranks = [EpochBatches(dataset, 50, rank=rank, world_size=3) for rank in range(3)]
    first = [index for rank in ranks for batch in rank for index in batch]
    assert sorted(first) == list(range(1800))
    for rank in ranks:
        rank.epoch = 1
    second = [index for rank in ranks for batch in rank for index in batch]
    assert sorted(second) == list(range(1800, 3600))
    assert [draw - 1800 for draw in second] != first


def test_statistics_are_exact_and_follow_the_relative_transform(v21: Path) -> None:
    plain = dataset_config(v21)
    mask = RelativeActions(mask=(True,) * 14)
    relative = dataclasses.replace(
        plain, transforms=(*plain.transforms, mask), action_window_size=8
    )
    config = DistributedRepeatingDataset.Config(
        datasets=relative,
        statistic_name="aloha",
        statistic_keys=("observation.state", "action"),
        name_mappings={"observation.state": ("proprio",)},
    )
    dataset = config.build()
    stats = dataset.stats["aloha"]
    states = dataset.datasets[0].column("observation.state")
    np.testing.assert_allclose(stats["proprio"].std, states.std(axis=0), rtol=1e-5)
    windows = [dataset.datasets[0].raw_sample(i) for i in range(1800)]
    values = [(s.actions - s.state)[s.action_masks] for s in windows]
    expected = np.concatenate(values)
    np.testing.assert_allclose(stats["action"].mean, expected.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(stats["action"].max, expected.max(axis=0), atol=1e-6)


def test_a_key_that_a_sample_lacks_is_named() -> None:
    with pytest.raises(
        DataError, match="expected 'states' in every sample, got actions in sample 1"
    ):
        DictCollator(keys=("states",))([{"states": 1}, {"actions": 2}])


def test_a_column_that_no_sample_has_is_left_out_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    collate = DictCollator(keys=("states", "observation.eepose"))
    for _ in range(2):
        assert list(collate([{"states": 1}, {"states": 2}])) == ["states"]
    assert caplog.messages == [
        "runner.collator.keys: ignored 'observation.eepose': no sample has this column, and "
        "no network reads it"
    ]
    with pytest.raises(DataError, match=r"expected 'observation.eepose' in every sample"):
        collate([{"states": 1, "observation.eepose": 1}, {"states": 2}])
