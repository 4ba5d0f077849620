"""FluxVLA's own files for the tutorial's table bind, and mean what the shipped configs mean."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from flux_core.config.compat import _warn_once
from flux_core.deployment import inference_sections, section_of_robot
from flux_core.errors import ConfigError
from flux_core.robots import is_called
from flux_core.transforms import Normalization
from flux_train.cli import main
from flux_train.config.tree import TrainConfig, bind_train_config, read_train_config

from .fluxvla_files import NAMES, Size, fluxvla_file
from .test_shipped_configs import ROBOTS, ROOT, shrink_model, shrink_prompt, write_dataset

each_name = pytest.mark.parametrize("name", NAMES)


def write(tree: dict[str, Any], path: Path) -> Path:
    path.write_text("\n".join(f"{name} = {section!r}" for name, section in tree.items()))
    return path


@cache
def shipped(name: str) -> TrainConfig:
    return read_train_config(ROOT / "configs" / f"{name}.py", [])[0]


def shapes(config: TrainConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = config.model.build()
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def meaning(config: TrainConfig) -> dict[str, object]:
    """The settings that the tutorial's tables give, and their consequences."""
    model, runner, data = config.model, config.runner, config.train_dataloader.dataset
    is_constant = runner.lr_scheduler_type == "constant"
    return {
        "network": shapes(config),
        "steps predicted": model.n_action_steps,
        "frozen": (model.freeze_vlm_backbone, model.freeze_llm_expert),
        "LoRA": (model.use_lora, model.lora_rank, model.lora_alpha, model.lora_dropout),
        "LoRA's layers": sorted(model.lora_target_modules) if model.use_lora else None,
        "trained whole": model.modules_to_save,
        "schedule": (runner.max_epochs, runner.lr_scheduler_type),
        "warm-up": None if is_constant else runner.warmup_ratio,
        "optimiser": (runner.weight_decay, runner.max_grad_norm, runner.betas),
        "data": [
            (group[0].action_key, group[0].window_start_idx, group[0].action_window_size)
            for group in data.groups().values()
        ],
        "padded to": data.dim,
    }


@each_name
def test_a_file_means_what_the_shipped_config_of_its_name_means(name: str, tmp_path: Path) -> None:
    config, _ = read_train_config(write(fluxvla_file(name, "tutorial"), tmp_path / "config.py"), [])
    assert meaning(config) == meaning(shipped(name))
    if "lora" not in name:
        assert config.runner.learning_rate == shipped(name).runner.learning_rate
    for robot, inference in inference_sections(config.inference).items():
        ours = section_of_robot(inference_sections(shipped(name).inference), robot)
        # FluxVLA's files say only `aloha`; ours say whose arms the recordings are of.
        assert ours is not None and is_called(ours.spec.name, robot)
        assert robot == "aloha" or inference.spec == ours.spec
        assert inference.dataset.img_keys == ours.dataset.img_keys


@each_name
def test_a_file_with_openpis_dimensions_binds(name: str, tmp_path: Path) -> None:
    config, _ = read_train_config(write(fluxvla_file(name, "openpi"), tmp_path / "config.py"), [])
    assert config.model.action_dim == 32


@pytest.mark.parametrize("size", ["tutorial", "openpi"])
def test_proprio_is_mean_std_everywhere_and_is_said_once_per_place(
    size: Size, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _warn_once.cache_clear()
    path = write(fluxvla_file("pi0/pi0_paligemma_ur3_full_train", size), tmp_path / "config.py")
    read_train_config(path, [])
    config, _ = read_train_config(path, [])
    ((dataset,),) = config.train_dataloader.dataset.groups().values()
    (inference,) = inference_sections(config.inference).values()
    for pipeline in (dataset.pipeline, inference.pipeline):
        assert [step.norm_type for step in pipeline.steps(Normalization)] == ["mean_std"]
    assert inference.denormalize_action.norm_type == "mean_std"
    assert [message for message in caplog.messages if "'proprio'" in message] == [
        f"{place}: 'proprio' is read as 'mean_std': FluxVLA normalises by mean and std for every "
        "name that it does not know"
        for place in (
            "train_dataloader.dataset.datasets.0.transforms.5.norm_type",
            "inference.dataset.transforms.4.norm_type",
            "inference.denormalize_action.norm_type",
        )
    ]


def test_a_camera_that_is_listed_twice_is_trained_without_a_robot_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tree = fluxvla_file("pi0/pi0_paligemma_aloha+ur_full_train", "openpi")
    bind_train_config(tree)
    where = "train_dataloader.dataset.datasets.ur3.0.transforms.0.video_keys: expected each camera "
    (warning,) = [text for text in caplog.messages if "cam_wrist' twice" in text]
    assert warning.startswith(where)
    assert "num_padding_imgs" in warning
    robot = fluxvla_file("pi0/pi0_paligemma_ur3_full_train", "openpi")["inference"]
    with pytest.raises(ConfigError, match="cam_wrist' twice"):
        bind_train_config(tree | {"inference": {"ur3": robot}})
    tree["train_dataloader"]["dataset"]["datasets"]["ur3"][0]["transforms"][0]["video_keys"] = []
    with pytest.raises(ConfigError, match="transforms.0"):
        bind_train_config(tree)


@pytest.mark.parametrize(
    ("name", "robot"),
    [
        ("pi0/pi0_paligemma_aloha_full_train", "aloha"),
        ("pi05/pi05_paligemma_libero_10_lora_finetune", "libero"),
    ],
)
def test_a_file_trains_at_a_tiny_size(name: str, robot: str, tmp_path: Path) -> None:
    tree = fluxvla_file(name, "tutorial")
    shrink_model(tree["model"])
    for key in ("time_mlp_in", "time_mlp_out"):
        if key in tree["model"]:
            tree["model"][key] |= {"in_dim": 16, "out_dim": 16}
    mixture = tree["train_dataloader"]["dataset"]
    (member,) = datasets if isinstance(datasets := mixture["datasets"], list) else [datasets]
    member["data_root_path"] = str(write_dataset(tmp_path / robot, *ROBOTS[robot]))
    sections = [member, *([tree["inference"]["dataset"]] if "inference" in tree else [])]
    for section in sections:
        shrink_prompt(section["transforms"])
        section["transforms"] = [
            step | {"tokenizer": {"type": "ByteTokenizer"}} if "tokenizer" in step else step
            for step in section["transforms"]
        ]
    # This dataset has no pose of the hand.
    mixture["statistic_keys"] = [key for key in mixture["statistic_keys"] if "eepose" not in key]
    few = {"max_epochs": None, "max_steps": 1, "num_threads": 1}
    tree["runner"] |= {**few, "enable_mixed_precision_training": False}
    tree["runner"]["metric"]["active_trackers"] = ["jsonl"]
    assert main([str(write(tree, tmp_path / "config.py")), str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "checkpoint_epoch_1.pt").is_file()


def test_a_copied_network_needs_no_sharding_and_cannot_have_it(tmp_path: Path) -> None:
    tree = fluxvla_file("pi05/pi05_paligemma_libero_10_lora_finetune", "tutorial")
    for kind in ("DDPTrainRunner", "SingleTrainRunner"):
        tree["runner"] |= {"type": kind, "sharding_strategy": "no-shard"}
        assert type(bind_train_config(tree).runner).__name__ == kind
        tree["runner"]["sharding_strategy"] = "full-shard"
        with pytest.raises(Exception, match="FSDPTrainRunner shards it") as caught:
            bind_train_config(tree)
        assert str(caught.value).startswith("runner.sharding_strategy: 'full-shard' is not supp")
