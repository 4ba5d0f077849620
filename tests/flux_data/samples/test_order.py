"""The order of samples: deterministic, split between ranks, resumable exactly, weighted."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from flux_core.errors import ConfigError, DataError
from flux_data.lerobot.dataset import open_lerobot
from flux_data.samples.mixture import DistributedRepeatingDataset, EpochBatches
from flux_data.samples.process_inputs import ProcessParquetInputs
from flux_data.samples.read_ahead import batches_ahead
from flux_data.samples.windows import ParquetDataset

from ..small_dataset import edit_info

BATCH = 7


def config_of(root: Path, **settings: Any) -> ParquetDataset.Config:
    inputs = ProcessParquetInputs(
        parquet_keys=("observation.state", "actions", "timestamp"),
        video_keys=("observation.images.cam_high",),
    )
    defaults = {"action_window_size": 8, "action_key": "action", "window_start_idx": 0}
    return ParquetDataset.Config(
        data_root_path=str(root), transforms=(inputs,), **{**defaults, **settings}
    )


class NoVideo(DistributedRepeatingDataset):
    """Has the real order and the real rows, but decodes no frames."""

    def __getitem__(self, draw: int) -> dict[str, Any]:
        epoch, index = divmod(draw, len(self))
        rng = np.random.default_rng((self.config.seed, epoch, index))
        raw = self.datasets[0].raw_sample(index % len(self.datasets[0]))
        return {"draw": draw, "state": raw.state, "noise": rng.normal(size=3)}


@pytest.fixture(scope="module")
def dataset(shared_data: Path) -> NoVideo:
    root = shared_data / "lerobot" / "v21"
    return NoVideo(DistributedRepeatingDataset.Config(datasets=config_of(root)))


def collate(samples: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    return {key: np.stack([np.asarray(sample[key]) for sample in samples]) for key in samples[0]}


def loader(sampler: EpochBatches, workers: int, worker_type: str = "process") -> Iterator[Any]:
    if workers and worker_type == "thread":
        return batches_ahead(sampler.dataset, sampler, collate, workers)
    return iter(
        DataLoader(
            sampler.dataset,  # type: ignore[arg-type]
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
        )
    )


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")
@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("worker_type", ["process", "thread"])
def test_a_resumed_loader_yields_exactly_the_remaining_batches(
    dataset: NoVideo, workers: int, world_size: int, worker_type: str
) -> None:
    for rank in range(world_size):
        whole = EpochBatches(dataset, BATCH, rank=rank, world_size=world_size)
        whole.epoch = 2
        expected = list(loader(whole, 0))
        stopped = EpochBatches(dataset, BATCH, rank=rank, world_size=world_size)
        stopped.epoch = 2
        consumed = len(expected) - 9
        # The loader reads ahead; only batches that were trained on count.
        reading = loader(stopped, workers, worker_type)
        for _ in range(3):
            next(reading)
        state = stopped.state_dict(consumed)
        again = EpochBatches(dataset, BATCH, rank=rank, world_size=world_size)
        again.load_state_dict(state)
        found = list(loader(again, workers, worker_type))
        assert len(found) == len(again) == 9
        for left, right in zip(found, expected[consumed:], strict=True):
            for key in right:
                np.testing.assert_array_equal(left[key], right[key])


def test_the_end_of_an_epoch_is_the_start_of_the_next(dataset: NoVideo) -> None:
    sampler = EpochBatches(dataset, BATCH)
    state = sampler.state_dict(sampler.batches_per_epoch)
    assert state == {"epoch": 1, "samples": 0, "global_batch_size": BATCH}


def test_another_number_of_ranks_resumes_at_the_same_sample(dataset: NoVideo) -> None:
    state = EpochBatches(dataset, 6, world_size=2).state_dict(5)
    alone = EpochBatches(dataset, 12)
    alone.load_state_dict(state)
    order = dataset.order(0)[60:72]
    assert next(iter(alone)) == order.tolist()
    threes = [EpochBatches(dataset, 4, rank=rank, world_size=3) for rank in range(3)]
    for rank, batches in enumerate(threes):
        batches.load_state_dict(state)
        assert next(iter(batches)) == order[rank::3].tolist()


def test_another_global_batch_size_resumes_after_the_saved_place(dataset: NoVideo) -> None:
    """Training warns of this: see test_resume.py."""
    batches = EpochBatches(dataset, 7)
    batches.load_state_dict(EpochBatches(dataset, 6, world_size=2).state_dict(5))
    assert next(iter(batches)) == dataset.order(0)[63:70].tolist()


def test_a_samples_random_numbers_depend_only_on_its_draw(dataset: NoVideo) -> None:
    first, again = dataset[5], dataset[5]
    other = dataset[5 + len(dataset)]
    np.testing.assert_array_equal(first["noise"], again["noise"])
    np.testing.assert_array_equal(first["state"], other["state"])
    assert not np.array_equal(first["noise"], other["noise"])


@pytest.fixture(scope="module")
def groups(shared_data: Path) -> dict[str, tuple[ParquetDataset.Config, ...]]:
    folder = shared_data / "lerobot"
    return {
        "aloha": (config_of(folder / "v21"), config_of(folder / "v30c")),
        "g1": (config_of(folder / "g1_real"),),
    }


def test_weights_are_each_groups_share_of_an_epoch(groups: dict) -> None:
    weights = {"aloha": 1.0, "g1": 3.0}
    config = DistributedRepeatingDataset.Config(datasets=groups, sampling_weights=weights)
    dataset = config.build()
    assert len(dataset) == 1800 + 1800 + 3027
    for epoch in (0, 1):
        order = dataset.order(epoch) - epoch * len(dataset)
        assert len(order) == len(dataset)
        is_g1 = order >= 3600
        assert is_g1.mean() == pytest.approx(0.75, abs=1e-3)
        # Drawn in rounds: within a group, counts differ by at most one.
        counts = Counter(order[is_g1].tolist())
        assert max(counts.values()) - min(counts.values()) <= 1
        assert len(set(order[~is_g1].tolist())) == (~is_g1).sum()
    assert not np.array_equal(dataset.order(0), dataset.order(1) - len(dataset))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"aloha": 1.0}, "expected a weight for each of aloha, g1, got aloha"),
        ({"aloha": -1.0, "g1": 1.0}, "expected positive numbers"),
    ],
)
def test_weights_must_fit_the_groups(groups: dict, weights: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DistributedRepeatingDataset.Config(datasets=groups, sampling_weights=weights)


def labelled(shared_data: Path, folder: Path, labels: dict[int, str]) -> Path:
    """The first shared episode with some of its frames labelled as another task."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = shared_data / "lerobot" / "v21"
    shutil.copytree(source / "meta", folder / "meta", copy_function=shutil.copyfile)
    (folder / "videos").symlink_to(source / "videos")
    edit_info(total_episodes=1, total_frames=150)(folder)
    episodes = folder / "meta" / "episodes.jsonl"
    episodes.write_text(episodes.read_text().splitlines()[0] + "\n")
    (folder / "meta" / "tasks.jsonl").write_text(
        '{"task_index": 0, "task": "fold"}\n{"task_index": 7, "task": "empty"}\n'
        '{"task_index": 9, "task": "static"}\n'
    )
    numbers = {"empty": 7, "static": 9}
    name = "data/chunk-000/episode_000000.parquet"
    table = pq.read_table(source / name)
    tasks = np.zeros(150, dtype=np.int64)
    for frame, label in labels.items():
        tasks[frame] = numbers[label]
    at = table.schema.get_field_index("task_index")
    (folder / name).parent.mkdir(parents=True)
    pq.write_table(table.set_column(at, "task_index", pa.array(tasks)), folder / name)
    return folder


def test_empty_and_static_frames_are_not_samples_and_end_windows(
    shared_data: Path, tmp_path: Path
) -> None:
    labels = {50: "empty", 51: "empty", 100: "static"}
    root = labelled(shared_data, tmp_path, labels)
    actions = open_lerobot(root).columns(["action"])["action"]
    part = config_of(root).build().parts[0]
    assert len(part) == 147
    sample = part.sample(47)  # three frames before the empty ones
    assert sample.action_masks.tolist() == [True] * 3 + [False] * 5
    np.testing.assert_array_equal(sample.actions[:3], actions[47:50])
    np.testing.assert_array_equal(sample.actions[3:], np.repeat(actions[49:50], 5, axis=0))
    # After them the frames continue without a jump in time.
    after = part.sample(50)
    np.testing.assert_array_equal(after.actions, actions[52:60])
    assert after.task == "fold"
    following = config_of(root, window_start_idx=1).build().parts[0]
    assert len(following) == 150 - 3 - 3  # minus the frames before a label and the last frame


def test_a_dataset_that_is_all_empty_has_no_samples_and_does_not_hang(
    shared_data: Path, tmp_path: Path
) -> None:
    root = labelled(shared_data, tmp_path, dict.fromkeys(range(150), "empty"))
    config = DistributedRepeatingDataset.Config(datasets=config_of(root))
    with pytest.raises(DataError, match="expected at least 4 samples .* got 0"):
        EpochBatches(config.build(), 4)


def test_padding_at_the_end_counts_only_when_asked(shared_data: Path) -> None:
    root = shared_data / "lerobot" / "v21"
    plain, padded = (
        config_of(root).build(),
        config_of(root, supervise_terminal_padding=True).build(),
    )
    assert plain.parts[0].sample(147).action_masks.sum() == 3
    assert padded.parts[0].sample(147).action_masks.all()
