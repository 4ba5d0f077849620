"""States and actions from columns of any name, in datasets that flux did not write."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from flux_core.errors import ConfigError, DataError
from flux_core.transforms import NormalizeStatesAndActions, RelativeActions
from flux_data.commands.main import main
from flux_data.lerobot import dimension_names
from flux_data.samples.mixture import DistributedRepeatingDataset
from flux_data.samples.process_inputs import ProcessParquetInputs
from flux_data.samples.windows import ParquetDataset

from ..small_dataset import ACTION, STATE, TOP, WRIST, edit_feature, edit_info, features, write_v21

EPISODES, LENGTH, HORIZON = 3, 40, 4


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a dataset of shared/reports/data names its columns."""

    case: str
    state: tuple[str, ...]
    actions: tuple[str, ...]
    cameras: tuple[str, ...]
    dims: int
    tolerance: int  # of a picture's brightness, because videos are lossy

    def config(self, folder: Path, *transforms: Any, **settings: Any) -> ParquetDataset.Config:
        inputs = ProcessParquetInputs(
            parquet_keys=("states", "actions"), video_keys=self.cameras, name_mappings={}
        )
        defaults = {"action_window_size": HORIZON, "window_start_idx": 0}
        return ParquetDataset.Config(
            data_root_path=str(folder / self.case / "ds"),
            transforms=(inputs, *transforms),
            **{"state_key": self.state, "action_key": self.actions, **defaults, **settings},
        )


OPENPI = Layout(
    case="case01",
    state=("state",),
    actions=("actions",),
    cameras=("image", "wrist_image"),
    dims=8,
    tolerance=0,
)
AGIBOT = Layout(
    case="case02",
    state=("observation.states.joint.position", "observation.states.effector.position"),
    actions=("actions.joint.position", "actions.effector.position"),
    cameras=("observation.images.cam_high",),
    dims=16,
    tolerance=2,
)
each_layout = pytest.mark.parametrize("layout", [OPENPI, AGIBOT], ids=["openpi", "agibot"])


@pytest.fixture(autouse=True)
def no_kept_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def columns_of(folder: Path, layout: Layout, columns: tuple[str, ...]) -> np.ndarray:
    """Returns the columns side by side, (frames, dims), as pyarrow reads them."""
    files = sorted((folder / layout.case / "ds" / "data").rglob("*.parquet"))
    tables = [pq.read_table(file) for file in files]
    parts = [np.concatenate([np.array(t[key].to_pylist()) for t in tables]) for key in columns]
    return np.concatenate(parts, axis=1)


@each_layout
def test_samples_hold_the_states_actions_and_pictures_of_their_frame(
    layout: Layout, reported_datasets: Path
) -> None:
    dataset = layout.config(reported_datasets).build()
    assert len(dataset) == EPISODES * LENGTH
    for index in (0, 7, LENGTH - 1, LENGTH, 2 * LENGTH + 33):
        episode, frame = divmod(index, LENGTH)
        sample = dataset[index]
        assert sample["states"].shape == (layout.dims,)
        assert sample["states"][:2].tolist() == [episode, frame]
        frames = np.minimum(frame + np.arange(HORIZON), LENGTH - 1)
        assert sample["actions"].shape == (HORIZON, layout.dims)
        assert sample["actions"][:, 0].tolist() == [episode + 0.5] * HORIZON
        assert sample["actions"][:, 1].tolist() == (frames + 0.5).tolist()
        assert sample["images"].shape == (len(layout.cameras), 48, 64, 3)
        brightness = (10 * episode + frame) % 250
        assert np.abs(sample["images"].astype(int) - brightness).max() <= layout.tolerance


@each_layout
def test_statistics_are_numpys_of_the_concatenated_columns(
    layout: Layout, reported_datasets: Path
) -> None:
    normalize = NormalizeStatesAndActions()
    config = DistributedRepeatingDataset.Config(
        datasets=layout.config(reported_datasets, normalize), statistic_keys=None
    )
    stats = config.build().stats["private"]
    assert set(stats) == {"proprio", "action"}
    for name, columns in (("proprio", layout.state), ("action", layout.actions)):
        values = columns_of(reported_datasets, layout, columns)
        assert values.shape == (EPISODES * LENGTH, layout.dims)
        np.testing.assert_allclose(stats[name].mean, values.mean(0), atol=1e-6)
        np.testing.assert_allclose(stats[name].std, values.std(0), atol=1e-6)
        np.testing.assert_allclose(stats[name].q01, np.quantile(values, 0.01, 0), atol=1e-6)
        np.testing.assert_allclose(stats[name].q99, np.quantile(values, 0.99, 0), atol=1e-6)


@each_layout
def test_relative_actions_are_measured_against_the_concatenated_state(
    layout: Layout, reported_datasets: Path
) -> None:
    relative = RelativeActions(mask=(True,) * layout.dims)
    dataset = layout.config(reported_datasets, relative, NormalizeStatesAndActions())
    config = DistributedRepeatingDataset.Config(datasets=dataset, statistic_keys=None)
    stats = config.build().stats["private"]["action"]
    # Action k of a window is k frames ahead of the state, and 0.5 more.
    np.testing.assert_allclose(stats.min[:2], [0.5, 0.5])
    np.testing.assert_allclose(stats.max[:2], [0.5, HORIZON - 0.5])


@each_layout
def test_the_next_states_of_several_columns_can_be_the_actions(
    layout: Layout, reported_datasets: Path
) -> None:
    config = layout.config(reported_datasets, action_key=layout.state, window_start_idx=1)
    sample = config.build()[5]
    assert sample["states"][1] == 5 and sample["actions"][:, 1].tolist() == [6, 7, 8, 9]


def test_a_renamed_column_is_the_state_without_a_key_of_its_own(reported_datasets: Path) -> None:
    """FluxVLA's spelling: the column's name stands in parquet_keys and name_mappings."""
    inputs = ProcessParquetInputs(
        parquet_keys=("state", "actions"),
        video_keys=OPENPI.cameras,
        name_mappings={"state": ("states",)},
    )
    config = OPENPI.config(reported_datasets, state_key=None)
    mixture = DistributedRepeatingDataset.Config(
        datasets=dataclasses.replace(config, transforms=(inputs, NormalizeStatesAndActions())),
        statistic_keys=("state", "actions"),
        name_mappings={"state": ("proprio",), "actions": ("action",)},
    )
    dataset = mixture.build()
    assert dataset.datasets[0].config.state_columns == ("state",)
    plain = OPENPI.config(reported_datasets, NormalizeStatesAndActions())
    other = dataclasses.replace(mixture, datasets=plain, statistic_keys=None).build()
    assert dataset.stats == other.stats
    for key in ("states", "actions", "images"):
        np.testing.assert_array_equal(dataset[50][key], other[50][key])


def test_concatenated_columns_keep_their_names() -> None:
    def vector(*names: str, dims: int = 2) -> dict[str, Any]:
        return {"dtype": "float32", "shape": [dims], "names": list(names) or None}

    joints, gripper = "actions.joint.position", "actions.effector.position"
    both = {ACTION: (joints, gripper)}
    for features_, expected in (
        ({joints: vector("a", "b"), gripper: vector("c", "d")}, ("a", "b", "c", "d")),
        (
            {joints: vector("left", "right"), gripper: vector("left", "right")},
            ("joint left", "joint right", "effector left", "effector right"),
        ),
        (
            {joints: vector("a", "b"), gripper: vector(dims=1)},
            ("a", "b", "effector 0"),
        ),
        ({joints: vector(), gripper: vector(dims=1)}, ("joint 0", "joint 1", "effector 0")),
    ):
        assert dimension_names(features_, both) == {ACTION: expected}
    found = dimension_names({gripper: vector("c", "d"), joints: vector("a", "b")})
    assert found == {ACTION: ("c", "d", "a", "b")}, "the metadata's order where none is given"


@each_layout
@pytest.mark.parametrize("command", [["info"], ["stats"], ["validate"], ["view", "--out"]])
def test_commands_find_state_and_actions_by_these_names(
    layout: Layout,
    command: list[str],
    reported_datasets: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = tmp_path / "page.html"
    out = [str(page)] if command[-1] == "--out" else []
    root = str(reported_datasets / layout.case / "ds")
    assert main([command[0], root, "--json", *command[1:], *out]) == 0
    printed = json.loads(capsys.readouterr().out)
    if command[0] == "info":
        names = [camera.removeprefix("observation.images.") for camera in layout.cameras]
        assert printed["cameras"] == names
    if command[0] == "validate":
        assert printed["faults"] == []
    if out:
        text = page.read_text()
        for word in ("State and action", 'class="name state"', 'class="name action"'):
            assert word in text


@each_layout
def test_observations_are_read_from_these_columns(
    layout: Layout, reported_datasets: Path, tmp_path: Path
) -> None:
    out = tmp_path / "some.npz"
    command = ["observations", str(reported_datasets / layout.case / "ds"), "--out", str(out)]
    camera = layout.cameras[-1]
    for state in ([], ["--state", *layout.state]):
        assert main([*command, "--cameras", f"top={camera}", "--count", "3", *state]) == 0
        with np.load(out) as stored:
            assert stored["state"].shape == (3, layout.dims)
            brightness = (10 * stored["state"][:, 0] + stored["state"][:, 1]) % 250
            found = stored["images.top"].astype(int) - brightness[:, None, None, None]
        assert np.abs(found).max() <= layout.tolerance


# ---- Refused configs


@pytest.mark.parametrize("key", ["state_key", "action_key"])
def test_a_column_that_the_dataset_lacks_is_named_with_the_nearest(
    key: str, reported_datasets: Path
) -> None:
    config = OPENPI.config(reported_datasets, **{key: ("action",)})
    message = (
        rf"ds: {key}: no feature 'action'\. Did you mean 'actions'\? It has: state, actions, image"
    )
    with pytest.raises(DataError, match=message):
        config.build()


def test_a_misspelt_column_to_copy_is_told_before_the_first_sample(reported_datasets: Path) -> None:
    inputs = ProcessParquetInputs(parquet_keys=("states", "timestmp"), video_keys=("image",))
    config = dataclasses.replace(OPENPI.config(reported_datasets), transforms=(inputs,))
    with pytest.raises(DataError, match="parquet_keys: no feature 'timestmp'. Did you mean 'time"):
        config.build()


def test_a_misspelt_camera_is_named_with_the_nearest(reported_datasets: Path) -> None:
    inputs = ProcessParquetInputs(parquet_keys=("states",), video_keys=("wrist_imge",))
    config = dataclasses.replace(OPENPI.config(reported_datasets), transforms=(inputs,))
    with pytest.raises(DataError, match=r"got 'wrist_imge'.*Did you mean 'wrist_image'"):
        config.build()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    write_v21(tmp_path / "small")
    return tmp_path / "small"


def small_config(root: Path, **settings: Any) -> ParquetDataset.Config:
    inputs = ProcessParquetInputs(parquet_keys=("states", "actions"), video_keys=(TOP,))
    return ParquetDataset.Config(data_root_path=str(root), transforms=(inputs,), **settings)


def test_columns_that_do_not_hold_numbers_are_refused(small: Path) -> None:
    with pytest.raises(ConfigError, match=f"state_key: '{TOP}': expected .* numbers, got video"):
        small_config(small, state_key=(STATE, TOP)).build()
    with pytest.raises(ConfigError, match=f"action_key: '{WRIST}': expected .* numbers, got image"):
        small_config(small, action_key=WRIST).build()


def test_columns_of_different_dtypes_are_refused(small: Path) -> None:
    edit_feature(ACTION, {**features()[ACTION], "dtype": "float64"})(small)
    message = f"expected columns of one dtype, got float32 .'{STATE}'. and float64 .'{ACTION}'."
    with pytest.raises(ConfigError, match=message):
        small_config(small, state_key=(STATE, ACTION)).build()


def test_columns_of_different_lengths_are_refused_where_they_are_read(small: Path) -> None:
    """A parquet file cannot have such columns, so the column has the wrong dimensions instead."""
    edit_info(features=features() | {ACTION: {**features()[ACTION], "shape": [5]}})(small)
    dataset = small_config(small, state_key=STATE, action_key=(STATE, ACTION)).build()
    with pytest.raises(DataError, match=rf"{ACTION}: expected 5 dimensions \(info.json\), got 3"):
        dataset[0]


@pytest.mark.parametrize("columns", [(), (STATE, STATE)])
def test_no_column_or_one_twice_is_refused(columns: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="action_key: expected one column or several different"):
        small_config(tmp_path, action_key=columns)


def test_two_answers_to_what_the_state_is_are_refused(tmp_path: Path) -> None:
    inputs = ProcessParquetInputs(parquet_keys=(STATE, "actions"), video_keys=(TOP,))
    with pytest.raises(ConfigError, match=f"state_key: expected '{STATE}', which .* got state"):
        ParquetDataset.Config(data_root_path="d", transforms=(inputs,), state_key="state")
    with pytest.raises(ConfigError, match="one column called 'states', got 'a' and 'b'"):
        ProcessParquetInputs(
            parquet_keys=("a", "b"),
            video_keys=(TOP,),
            name_mappings={"a": ("states",), "b": ("states",)},
        )
    with pytest.raises(ConfigError, match="one column called 'proprio', got 'a' and 'b'"):
        DistributedRepeatingDataset.Config(
            datasets=small_config(tmp_path),
            statistic_keys=("a", "b"),
            name_mappings={"a": ("proprio",), "b": ("proprio",)},
        )
