"""Names of `meta/modality.json` in a config: parts of columns, cameras, and the task's column."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_core.errors import DataError
from flux_core.transforms import NormalizeStatesAndActions
from flux_data.modality import read_modality
from flux_data.samples.mixture import DistributedRepeatingDataset
from flux_data.samples.process_inputs import ProcessParquetInputs
from flux_data.samples.windows import ParquetDataset

from ..small_dataset import ACTION, STATE, TOP, WRIST, edit_info, features, write_v21

MODALITY: dict[str, Any] = {
    "state": {
        "arm": {"start": 0, "end": 2},
        "gripper": {"start": 2, "end": 3, "rotation_type": None},
        "last_action": {"start": 1, "end": 3, "original_key": ACTION},
    },
    "action": {"arm": {"start": 0, "end": 2, "absolute": True}, "gripper": {"start": 2, "end": 3}},
    "video": {"front": {"original_key": TOP}, WRIST: {}},
    "annotation": {
        "human.task_description": {"original_key": "task_index"},
        "human.validity": {},
    },
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "dataset"
    write_v21(folder)
    write(folder, MODALITY)
    return folder


def write(root: Path, modality: object) -> None:
    (root / "meta" / "modality.json").write_text(json.dumps(modality))


def config(root: Path | tuple[str, ...], *more: Any, **settings: Any) -> ParquetDataset.Config:
    inputs = ProcessParquetInputs(
        parquet_keys=("states", "actions"), video_keys=("video.front",), name_mappings={}
    )
    return ParquetDataset.Config(
        data_root_path=str(root) if isinstance(root, Path) else root,
        transforms=(inputs, *more),
        **{
            "state_key": ("state.gripper", "state.arm"),
            "action_key": ("action.gripper", "action.arm"),
            "action_window_size": 2,
            "window_start_idx": 0,
            **settings,
        },
    )


def test_parts_are_joined_in_the_configs_order(root: Path) -> None:
    dataset = config(root).build()
    whole = config(root, state_key=STATE, action_key=ACTION).build()
    order = [2, 0, 1]
    for index in (0, 5, len(whole) - 1):
        ours, theirs = dataset.raw_sample(index), whole.raw_sample(index)
        np.testing.assert_array_equal(ours.state, theirs.state[order])
        np.testing.assert_array_equal(ours.actions, theirs.actions[:, order])
        assert ours.task == theirs.task
    assert dataset[0]["images"].shape == whole[0]["images"].shape  # type: ignore[attr-defined]
    (part,) = dataset.parts
    assert (part.state_dim, part.action_dim) == (3, 3)
    assert part.frames.cameras == (TOP,)


def test_a_key_may_be_of_another_column(root: Path) -> None:
    dataset = config(root, state_key="state.last_action").build()
    whole = config(root, state_key=STATE, action_key=ACTION).build()
    np.testing.assert_array_equal(dataset.raw_sample(3).state, whole.raw_sample(3).actions[0, 1:])


def test_statistics_are_of_the_parts(root: Path) -> None:
    normalize = NormalizeStatesAndActions(norm_type="min_max")
    mixture = DistributedRepeatingDataset.Config(
        statistic_name="arm", datasets=config(root, normalize), statistic_keys=None
    ).build()
    stats = mixture.stats["arm"]
    states = mixture.datasets[0].column(STATE)
    np.testing.assert_allclose(stats["proprio"].max, states.max(axis=0)[[2, 0, 1]], rtol=1e-6)
    assert stats["action"].dim == 3
    assert np.abs(mixture[0]["states"]).max() <= 1.000001


def test_names_of_dimensions_are_those_of_the_parts(root: Path) -> None:
    named = {"dtype": "float32", "shape": [3], "names": ["x", "y", "grip"]}
    edit_info(features=features() | {STATE: named, ACTION: named})(root)
    (part,) = config(root).build().parts
    assert part.state_names == ("grip", "x", "y")


def test_the_task_is_read_from_the_annotations_column(root: Path) -> None:
    assert config(root, task_key="annotation.human.task_description").build().raw_sample(0).task
    with pytest.raises(DataError, match="no feature 'annotation.human.validity'"):
        config(root, task_key="annotation.human.validity").build()


def test_a_columns_own_name_is_never_looked_up(root: Path) -> None:
    write(root, {"state": "malformed"})
    inputs = ProcessParquetInputs(
        parquet_keys=("states", "actions"), video_keys=(TOP,), name_mappings={}
    )
    names = {"state_key": STATE, "action_key": ACTION, "transforms": (inputs,)}
    assert len(replace(config(root), **names).build())
    assert read_modality(root.parent) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state_key": "state.arms"}, r"no key 'state.arms'. Did you mean 'state.arm'\?"),
        ({"state_key": f"{STATE}[1:9]"}, r"expected a part of the 3 dimensions"),
        ({"state_key": f"{STATE}[2:2]"}, r"expected a part of the 3 dimensions"),
        ({"state_key": "observation.stat[0:1]"}, r"no feature 'observation.stat'"),
    ],
)
def test_what_a_config_names_wrongly(root: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        config(root, **change).build()


@pytest.mark.parametrize(
    ("modality", "message"),
    [
        ({"state": {"arm": {"start": 2, "end": 2}}}, "state.arm: expected start and end"),
        ({"state": {"arm": {"start": "0", "end": 2}}}, "state.arm: expected start and end"),
        ({"state": {"arm": [0, 2]}}, "state.arm: expected an object"),
        ({"video": []}, "video: expected an object"),
        ({"video": {"front": {"original_key": 3}}}, "video.front.original_key: expected a column"),
    ],
)
def test_a_malformed_file_is_refused(root: Path, modality: object, message: str) -> None:
    write(root, modality)
    with pytest.raises(DataError, match=message):
        config(root).build()


def test_a_rotation_is_converted_from_the_form_that_the_file_names(root: Path) -> None:
    turn = {"start": 0, "end": 3, "rotation_type": "euler_angles_rpy"}
    write(root, MODALITY | {"state": {"turn": turn}})
    keys = {"state_key": ("state.turn",)}

    def normalize(rule: Any) -> NormalizeStatesAndActions:
        return NormalizeStatesAndActions(state_keys=(("turn", 3, rule),))

    assert len(config(root, normalize("euler_angles_rpy_to_rotation_6d"), **keys).build())
    assert len(config(root, normalize("min_max"), **keys).build())
    with pytest.raises(DataError, match=r"state.turn.rotation_type: expected 'axis_angle', from"):
        config(root, normalize("axis_angle_to_rotation_6d"), **keys).build()
    for kind in ("euler_angles_xyz", "rpy", 3, ["matrix"]):
        write(root, MODALITY | {"state": {"turn": turn | {"rotation_type": kind}}})
        with pytest.raises(
            DataError, match=r"state.turn.rotation_type: expected one of axis_angle"
        ):
            config(root, **keys).build()


def test_changes_are_zero_and_places_repeated_once_an_episode_is_over(root: Path) -> None:
    places = MODALITY["action"]
    write(root, MODALITY | {"action": places | {"arm": places["arm"] | {"absolute": False}}})
    dataset = config(root, action_window_size=4).build()
    (part,) = dataset.parts
    last = int(part.source.lengths[0]) - 1
    raw, whole = dataset.raw_sample(last), config(root, action_window_size=4, action_key=ACTION)
    theirs = whole.build().raw_sample(last).actions
    assert raw.action_masks.tolist() == [True, False, False, False]
    np.testing.assert_array_equal(raw.actions[:, 0], theirs[:, 2])  # the gripper's place
    np.testing.assert_array_equal(raw.actions[0, 1:], theirs[0, :2])
    assert theirs[0, :2].any() and not raw.actions[1:, 1:].any()
    frames = np.arange(last + 1)
    windows, _ = part.windows(part.episode(0), 0, frames)
    np.testing.assert_array_equal(windows[-1], raw.actions)
    # If the file does not call them changes, both are repeated.
    write(root, MODALITY)
    again = config(root, action_window_size=4).build().raw_sample(last).actions
    np.testing.assert_array_equal(again, theirs[:, [2, 0, 1]])


@pytest.mark.parametrize("second", ["action.both", ACTION, f"{ACTION}[1:3]"])
def test_parts_of_actions_with_a_dimension_in_common_are_refused(root: Path, second: str) -> None:
    write(root, MODALITY | {"action": {**MODALITY["action"], "both": {"start": 1, "end": 3}}})
    with pytest.raises(DataError, match=r"action_key: .* once, got dimension [01] of 'action'"):
        config(root, action_key=("action.arm", second)).build()
    states = ("state.arm", f"{STATE}[1:3]")  # what a state shows twice is no contradiction
    assert config(root, state_key=states).build().raw_sample(0).state.shape == (4,)


def test_directories_with_other_columns_are_refused_and_those_with_the_same_are_joined(
    root: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    write_v21(other)
    write(other, MODALITY)
    both = (str(root), str(other))
    assert len(config(both).build()) == 2 * len(config(root).build())
    write(other, MODALITY | {"state": {**MODALITY["state"], "gripper": {"start": 0, "end": 1}}})
    with pytest.raises(DataError, match="expected the columns of"):
        config(both).build()
    (other / "meta" / "modality.json").unlink()
    with pytest.raises(DataError, match="no feature 'state.gripper'|video.front"):
        config(other).build()
