"""Resuming a run: from which checkpoint, whether it fits, and what is logged about changes."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from flux_core.config import NETWORKS, component, config_class
from flux_core.errors import CheckpointError, ConfigError
from flux_core.models import FlowPolicy
from flux_core.models.weights.checkpoint_file import load_checkpoint
from flux_core.norm_stats import stats_from_json
from flux_train.checkpoints.checks import check_resumable
from flux_train.checkpoints.choice import checkpoint_to_resume
from flux_train.checkpoints.files import Place, checkpoints, newest_intact, placed, remove_old
from flux_train.cli import main
from flux_train.config.tree import read_train_config
from flux_train.distributed.ranks import Ranks
from flux_train.trainer import Trainer

ROOT = Path(__file__).resolve().parents[3]
SMALL = str(ROOT / "configs" / "pi05" / "pi05_small_aloha_sim.py")
DATA = "train_dataloader.dataset.datasets.data_root_path"


def train(work_dir: Path, options: list[str], *more: str) -> int:
    return main([SMALL, str(work_dir), *more, "--cfg-options", *options])


@pytest.fixture
def options(tiny_options: list[str]) -> list[str]:
    return [*tiny_options, "runner.lr_scheduler_type=constant", "runner.ema_decay=0.9"]


@pytest.fixture(scope="module")
def saved(tiny_options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work dir of a run with checkpoints of steps 2, 4 and 6; read-only."""
    work_dir = tmp_path_factory.mktemp("saved")
    more = ["runner.max_steps=6", "runner.save_iter_interval=2", "runner.max_checkpoints=9"]
    more += ["runner.lr_scheduler_type=constant", "runner.ema_decay=0.9"]
    assert train(work_dir, [*tiny_options, *more]) == 0
    return work_dir


def copied(work_dir: Path, to: Path) -> Path:
    """A copy whose file times are reversed, as `cp -r` may leave them: the latest step oldest."""
    shutil.copytree(work_dir, to)
    for age, path in enumerate(checkpoints(to)):
        os.utime(path, (1e9 - age, 1e9 - age))
    return to


def names(paths: list[Path]) -> list[str]:
    return [path.stem.removeprefix("checkpoint_") for path in paths]


def test_a_run_is_not_started_over_another(
    saved: Path, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work_dir = copied(saved, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in work_dir.rglob("*")}
    assert train(work_dir, options) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "error:" in x]
    assert line.endswith(
        f"{work_dir}: expected no run, got one of 6 steps. Add --resume-from auto to resume it, or "
        "name another WORK_DIR"
    )
    assert before == {path: path.stat().st_mtime_ns for path in work_dir.rglob("*")}
    assert train(work_dir, options, "--dry-run") == 0


def test_metrics_alone_count_as_a_run_and_a_start_without_a_step_does_not(
    saved: Path, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "epoch": 1, "loss": 1.0}\n')
    assert train(tmp_path, options) == 1
    assert "got one of 3 steps. Add --resume-from auto to start it again" in capsys.readouterr().err
    assert train(tmp_path, options, "--resume-from", "auto") == 0
    aborted = tmp_path / "aborted"
    aborted.mkdir()
    for name in ("config.json", "norm_stats.json"):
        shutil.copyfile(saved / name, aborted / name)
    (aborted / "metrics.jsonl").write_text("")
    (aborted / "checkpoint_step_2.pt.partial").write_bytes(b"half")
    (aborted / "checkpoint_step_2.shards.partial").mkdir()
    assert train(aborted, options) == 0
    assert not list(aborted.glob("*.partial"))


def test_checkpoints_of_a_copied_run_are_in_the_order_of_their_steps(
    saved: Path, options: list[str], tmp_path: Path
) -> None:
    work_dir = copied(saved, tmp_path / "run")
    assert names(checkpoints(work_dir)) == ["step_2", "step_4", "epoch_1"]
    assert [place.step for place, _ in placed(work_dir)] == [2, 4, 6]
    newest = newest_intact(work_dir)
    assert newest is not None and newest.name == "checkpoint_epoch_1.pt"
    remove_old(work_dir, 1)
    assert names(checkpoints(work_dir)) == ["epoch_1"]


def test_checkpoints_whose_step_cannot_be_read_are_in_the_order_of_their_times(
    saved: Path, tmp_path: Path
) -> None:
    work_dir = copied(saved, tmp_path / "run")
    for path in work_dir.glob("*.safetensors"):
        path.unlink()
    assert names(checkpoints(work_dir)) == ["epoch_1", "step_4", "step_2"]


def test_checkpoints_saved_after_going_back_outrank_later_steps(
    saved: Path, options: list[str], tmp_path: Path
) -> None:
    work_dir = copied(saved, tmp_path / "run")
    more = ["runner.max_steps=5", "runner.save_iter_interval=1", "runner.max_checkpoints=3"]
    checkpoint = str(work_dir / "checkpoint_step_2.pt")
    assert train(work_dir, [*options, *more], "--resume-from", checkpoint) == 0
    found = placed(work_dir)
    assert [place for place, _ in found] == [Place(1, 3), Place(1, 4), Place(1, 5)]
    assert names([path for _, path in found]) == ["step_3", "step_4", "epoch_1"]


def test_naming_a_damaged_checkpoint_is_refused(
    saved: Path, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work_dir = copied(saved, tmp_path / "run")
    path = work_dir / "checkpoint_epoch_1.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[:9000] + b"\x07" + whole[9001:])
    assert train(work_dir, options, "--resume-from", str(path)) == 1
    told = capsys.readouterr().err
    assert f"{path}: expected an intact checkpoint of flux-train, got a damaged one" in told
    assert "--resume-from auto skips damaged ones" in told
    assert train(work_dir, options, "--resume-from", str(tmp_path / "gone.pt")) == 1
    assert (
        "gone.pt: expected a checkpoint, got a path that does not exist" in capsys.readouterr().err
    )


@dataclass(frozen=True, kw_only=True)
class FakeRanks(Ranks):
    """Processes; `others` is what the others see."""

    others: tuple[object, ...] = field(default=())

    def from_main(self, value: Any) -> Any:
        return value

    def gathered(self, value: object) -> list[object]:
        return [value, *self.others]


@pytest.mark.parametrize(
    ("others", "message"),
    [((None,), "rank 1 sees none"), (("same", 7), "rank 2 sees another one")],
)
def test_a_node_that_does_not_see_the_checkpoint_is_named(
    saved: Path, others: tuple[object, ...], message: str
) -> None:
    path = saved / "checkpoint_epoch_1.pt"
    seen = tuple(path.stat().st_size if other == "same" else other for other in others)
    ranks = FakeRanks(world_size=1 + len(others), others=seen)
    with pytest.raises(CheckpointError, match=f"{path}: .* {message}. Put {saved} on a file"):
        checkpoint_to_resume("auto", saved, ranks)


def test_several_processes_need_a_runner_that_takes_them(
    tiny_options: list[str], tmp_path: Path
) -> None:
    config, _ = read_train_config(Path(SMALL), tiny_options)
    with pytest.raises(ConfigError, match=r"runner.type: expected DDPTrainRunner .* 2 processes"):
        Trainer(config, tmp_path, Ranks(world_size=2))


def other_data(one_episode: Path, to: Path) -> Path:
    """The first two episodes of the dataset; the fixture has only the first one."""
    shutil.copytree(one_episode, to, symlinks=True)
    every = (one_episode / "data").resolve().parent / "meta" / "episodes.jsonl"
    (to / "meta" / "episodes.jsonl").write_text("".join(every.open().readlines()[:2]))
    return to


def test_another_normalisation_under_the_same_weights_is_refused_with_both_values(
    saved: Path,
    options: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    work_dir = copied(saved, tmp_path / "run")
    trained = "train_dataloader.dataset.datasets.transforms.1.norm_type"
    robots = ("dataset.transforms.0.norm_type", "denormalize_action.norm_type")
    changed = [f"{path}=mean_std" for path in (trained, *(f"inference.{p}" for p in robots))]
    assert train(work_dir, [*options, *changed], "--resume-from", "auto") == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{trained}: expected 'quantile' as in the checkpoint, got 'mean_std'" in error
    assert "model.pretrained_name_or_path=" in error


def test_other_statistics_under_the_same_weights_are_refused(
    saved: Path,
    options: list[str],
    one_episode: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    work_dir = copied(saved, tmp_path / "run")
    changed = f"{DATA}={other_data(one_episode, tmp_path / 'data')}"
    assert train(work_dir, [*options, changed], "--resume-from", "auto") == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the statistics of " in error and "proprio differ from the data's" in error
    assert f"pretrained_name_or_path={work_dir / 'checkpoint_epoch_1.safetensors'}" in error


def test_changed_settings_are_logged_in_one_line(
    saved: Path, options: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    work_dir = copied(saved, tmp_path / "run")
    untold = ["runner.max_steps=7", "runner.log_interval=2", "runner.save_iter_interval=3"]
    untold.append("train_dataloader.per_device_num_workers=1")
    assert train(work_dir, [*options, *untold], "--resume-from", "auto") == 0
    assert not caplog.text
    told = ["runner.max_steps=8", "runner.learning_rate=1e-3", "runner.weight_decay=0.5"]
    told.append("train_dataloader.dataset.shuffle=false")
    assert train(work_dir, [*options, *told], "--resume-from", "auto") == 0
    (line,) = caplog.messages
    assert "train_dataloader.dataset.shuffle: True -> False" in line
    assert "runner.learning_rate: 0.003 -> 0.001, runner.weight_decay: 0.0001 -> 0.5" in line


def test_settings_of_the_network_that_no_step_depends_on_may_change(
    saved: Path, options: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moved = ["model.pretrained_name_or_path=no/longer/there", "model.num_steps=5"]
    config, _ = read_train_config(Path(SMALL), [*options, "runner.max_steps=7", *moved])
    state = load_checkpoint(saved / "checkpoint_epoch_1.pt")
    check_resumable(saved, state, config, stats_from_json(state["norm_stats"]))
    trainer = Trainer(config, tmp_path, checkpoint=saved / "checkpoint_epoch_1.pt")
    assert trainer.step == 6 and caplog.messages == []


def test_what_is_learned_from_here_on_is_logged(
    saved: Path, options: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    delays = "model.rtc_training_config={'max_delay': 4}"
    config, _ = read_train_config(Path(SMALL), [*options, "runner.max_steps=7", delays])
    Trainer(config, tmp_path, checkpoint=saved / "checkpoint_epoch_1.pt")
    assert "resumes with changed settings: model.rtc_training_config: None -> {" in caplog.text


def test_another_network_is_refused_with_both_values_and_the_remedy(
    saved: Path, options: list[str]
) -> None:
    wider = ["model.llm_expert.intermediate_size=32", "model.loss_action_dim=14"]
    config, _ = read_train_config(Path(SMALL), [*options, *wider])
    path = saved / "checkpoint_epoch_1.pt"
    state = load_checkpoint(path)
    with pytest.raises(CheckpointError) as error:
        check_resumable(path, state, config, stats_from_json(state["norm_stats"]))
    told = str(error.value)
    assert "model.llm_expert.intermediate_size: 16 -> 32" in told
    assert "model.loss_action_dim: None -> 14" in told
    assert "(checkpoint -> config). Use the checkpoint's" in told
    assert f"model.pretrained_name_or_path={path.with_suffix('.safetensors')}" in told


def test_every_setting_of_the_network_is_compared_ignored_or_reported() -> None:
    for target in NETWORKS.values():
        config: type[FlowPolicy.Config] = config_class(component(target))
        ignored, reported = config.ignored_on_resume.keys(), config.reported_on_resume.keys()
        assert config.__dataclass_fields__.keys() >= ignored | reported
        assert not ignored & reported


def test_a_different_setup_is_logged_in_one_line(
    saved: Path, options: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    work_dir = copied(saved, tmp_path / "run")
    more = ["runner.gradient_accumulation_steps=2", "runner.type=DDPTrainRunner"]
    more += ["runner.max_steps=7", "runner.lr_scheduler_type=linear-warmup+cosine-decay"]
    assert train(work_dir, [*options, *more], "--resume-from", "auto") == 0
    line = caplog.messages[0]
    for part in (
        "step: 2 instead of 1, runner DDPTrainRunner instead of SingleTrainRunner (sums are round",
        "samples per step: 8 instead of 4 (batches and noise differ)",
        "steps in total: 7 instead of 6 (from here on, the learning rate follows the new",
    ):
        assert part in line
    assert len(caplog.messages) == 2 and "runner.lr_scheduler_type: " in caplog.messages[1]


def test_an_average_that_the_checkpoint_lacks_starts_from_the_weights(
    options: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert train(tmp_path, [*options, "runner.ema_decay=0"]) == 0
    config, _ = read_train_config(Path(SMALL), [*options, "runner.max_steps=5"])
    checkpoint = tmp_path / "checkpoint_epoch_1.pt"
    average = Trainer(config, tmp_path, checkpoint=checkpoint).state.average
    (line,) = [message for message in caplog.messages if "task_descriptions" not in message]
    assert "runner.ema_decay is 0.9 but the checkpoint holds no average of the weights; the" in line
    assert average is not None
    weights = load_checkpoint(checkpoint)["model"]
    for name, value in average.weights.items():
        assert torch.equal(value, weights[name]), name


def test_the_last_line_of_the_metrics_is_of_training(
    saved: Path, options: list[str], one_episode: Path, tmp_path: Path
) -> None:
    tree = json.loads((saved / "config.json").read_text())
    held_out = tmp_path / "held_out"
    held_out.symlink_to(one_episode)
    dataset = dict(tree["train_dataloader"]["dataset"])
    dataset["datasets"] = {**dataset["datasets"], "data_root_path": str(held_out)}
    tree["validation"] = {"dataset": dataset, "interval_steps": 2, "num_batches": 1}
    config = tmp_path / "config.json"
    config.write_text(json.dumps(tree))
    more = ["validation.num_action_samples=1", "runner.max_steps=4"]
    assert main([str(config), str(tmp_path / "run"), "--cfg-options", *more]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    steps = [(line["step"], "validation" in line) for line in lines]
    assert steps == [(1, False), (2, True), (2, False), (3, False), (4, True), (4, False)]
    assert {"loss", "learning_rate", "samples_per_s"} <= lines[-1].keys()
