"""A transform from outside flux trains: bound by its path, in the statistics, and undone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_core.config.installed import ENTRY_POINT_GROUP
from flux_core.errors import ConfigError
from flux_core.models.weights.checkpoint_file import load_checkpoint
from flux_core.norm_stats import stats_from_json
from flux_core.policy_io import PolicyIO
from flux_data.lerobot.dataset import open_lerobot
from flux_train.cli import main as train_main
from flux_train.config.tree import bind_train_config, read_train_config

from ..distributions import install
from ..flux_core.transforms import foreign
from . import degrees

MASK = (*(True,) * 6, False) * 2
CONFIG = """
from flux_train import recipes

model = recipes.small_pi05_model(action_horizon=32)
train_dataloader = recipes.small_aloha_sim_data(
    data_root_path="elsewhere", action_horizon=32, batch_size=8
)
runner = recipes.small_runner(max_steps=2)
inference = recipes.small_aloha_sim_inference(execution_horizon=16)
train_dataloader["dataset"]["datasets"]["transforms"][1:1] = TRAINED
inference["dataset"]["transforms"][:0] = DEPLOYED
"""
RADIANS = {"type": f"{degrees.__name__}:DegreesToRadians", "joints": list(MASK)}
RELATIVE = {"type": "RelativeActions", "mask": list(MASK)}


def write_config(folder: Path, trained: list[Any], deployed: list[Any]) -> Path:
    path = folder / "config.py"
    path.write_text(CONFIG.replace("TRAINED", repr(trained)).replace("DEPLOYED", repr(deployed)))
    return path


def moved(options: list[str], places: int) -> list[str]:
    """The tiny sizes, of prompts that stand further down."""
    out = []
    for option in options:
        for was in (3, 2):
            if f"transforms.{was}." in option:
                option = option.replace(f"transforms.{was}.", f"transforms.{was + places}.")
                break
        out.append(option)
    return [*out, "runner.max_steps=2"]


def test_it_trains_in_its_own_units_and_the_way_back_is_the_robots(
    tiny_options: list[str],
    one_episode: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = {"DegreesToRadians": f"{degrees.__name__}:DegreesToRadians"}
    monkeypatch.syspath_prepend(install(tmp_path / "site", "my-units", {ENTRY_POINT_GROUP: names}))
    units = [{**RADIANS, "type": "DegreesToRadians"}, RELATIVE]
    path = write_config(tmp_path, units, units)
    out = tmp_path / "run"
    assert train_main([str(path), str(out), "--cfg-options", *moved(tiny_options, 2)]) == 0
    checkpoint = load_checkpoint(out / "checkpoint_epoch_1.pt")
    config = bind_train_config(checkpoint["config"])
    stats = stats_from_json(checkpoint["norm_stats"])
    (group,) = stats

    columns = open_lerobot(one_episode).columns(["observation.state", "action"])
    factor = np.where(MASK, np.pi / 180.0, 1.0)
    states = columns["observation.state"] * factor
    np.testing.assert_allclose(stats[group]["proprio"].mean, states.mean(0), atol=1e-6)
    least = config.train_dataloader.dataset.min_range / 12**0.5
    std = np.maximum(states.std(0), least)
    np.testing.assert_allclose(stats[group]["proprio"].std, std, atol=1e-6)

    inference: Any = config.inference
    io = PolicyIO.from_policy(inference, stats)
    scale, offset = stats[group]["action"].affine("quantile")
    np.testing.assert_allclose(io.scale, scale / factor, rtol=1e-6)
    np.testing.assert_allclose(io.offset, offset / factor, rtol=1e-6, atol=1e-9)
    assert io.relative_mask.tolist() == list(MASK)
    # The network at rest: the mean action of training, from where the robot is.
    state = columns["observation.state"][0].astype(np.float32)
    found = io.decode(np.zeros((1, 14), np.float32), state)
    np.testing.assert_allclose(found[0], offset / factor + np.where(MASK, state, 0), atol=1e-5)


@pytest.mark.parametrize(
    ("trained", "deployed", "message"),
    [
        (
            [RADIANS],
            [],
            "inference.dataset.transforms: DegreesToRadians differs from training: expected "
            "[DegreesToRadians(joints=",
        ),
        (
            [RADIANS],
            [{**RADIANS, "joints": [True] * 14}],
            "inference.dataset.transforms: DegreesToRadians differs from training in joints: "
            f"expected {MASK}, got {(True,) * 14}",
        ),
        (
            [{"type": f"{foreign.__name__}:NotATransform"}],
            [],
            "train_dataloader.dataset.datasets.transforms.1: expected Transform, got type "
            f"'{foreign.__name__}:NotATransform'",
        ),
        (
            [{"type": f"{foreign.__name__}:HalvesActions"}],
            [],
            "train_dataloader.dataset.datasets.transforms: HalvesActions changes actions but",
        ),
    ],
)
def test_a_robot_that_would_not_undo_it_is_refused(
    trained: list[Any], deployed: list[Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        read_train_config(write_config(tmp_path, trained, deployed), [])
    assert str(error.value).startswith(message)


def test_one_that_only_real_images_give_away_is_refused_before_the_first_step(
    tiny_options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = {"Halves": f"{foreign.__name__}:HalvesActionsOfLargeImages"}
    monkeypatch.syspath_prepend(install(tmp_path / "site", "halves", {ENTRY_POINT_GROUP: names}))
    halves = {"type": "Halves"}
    path = write_config(tmp_path, [halves], [halves])
    options = moved(tiny_options, 1)
    assert train_main([str(path), str(tmp_path / "run"), "--cfg-options", *options]) == 1
    said = capsys.readouterr().err
    assert ".transforms: all together: expected actions to be restored by the declared" in said
