"""Statistics with AlohaToPi equal numpy's of columns that openpi's formulas convert here."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import numpy as np
import pytest

from flux_core.errors import ConfigError
from flux_core.norm_stats import FeatureStats
from flux_core.transforms import (
    AlohaToPi,
    NormalizeStatesAndActions,
    RelativeActions,
    Transform,
)
from flux_data.samples import mixture as repeating_dataset
from flux_data.samples.mixture import DistributedRepeatingDataset

from .test_order import config_of

MASK = (*(True,) * 6, False) * 2
SIGNS = np.array([1, -1, -1, 1, 1, 1, 1] * 2)
GRIPPERS = [6, 13]


def pi_states(states: np.ndarray) -> np.ndarray:
    out = states.astype(np.float64) * SIGNS
    way = 0.01844 + states[..., GRIPPERS].astype(np.float64) * (0.058 - 0.01844)
    sine = (0.022**2 + way**2 - 0.036**2) / (2 * 0.022 * way)
    out[..., GRIPPERS] = (np.arcsin(np.clip(sine, -1, 1)) - 0.5476) / (1.6296 - 0.5476)
    return out


def pi_actions(actions: np.ndarray) -> np.ndarray:
    out = actions.astype(np.float64) * SIGNS
    out[..., GRIPPERS] = actions[..., GRIPPERS] * (1.4910 + 0.6213) - 0.6213 - 0.5476
    return out


def dataset_of(
    root: Path, *transforms: Transform, **settings: object
) -> DistributedRepeatingDataset.Config:
    plain = config_of(root)
    return DistributedRepeatingDataset.Config(
        datasets=dataclasses.replace(plain, transforms=(*plain.transforms, *transforms)),
        statistic_name="aloha",
        **{
            "statistic_keys": ("observation.state", "action", "timestamp"),
            "name_mappings": {"observation.state": ("proprio",)},
            **settings,
        },
    )


def assert_statistics(found: FeatureStats, values: np.ndarray) -> None:
    expected = {
        "mean": values.mean(0),
        "std": values.std(0),
        "min": values.min(0),
        "max": values.max(0),
        "q01": np.quantile(values, 0.01, axis=0),
        "q99": np.quantile(values, 0.99, axis=0),
    }
    for name, column in expected.items():
        np.testing.assert_allclose(getattr(found, name), column, atol=2e-6, err_msg=name)
    assert found.count == len(values)


@pytest.fixture(scope="module")
def v21(shared_data: Path) -> Path:
    return shared_data / "lerobot" / "v21"


def test_absolute_actions_and_states_are_measured_in_pis_units(v21: Path) -> None:
    dataset = dataset_of(v21, AlohaToPi()).build()
    stats, part = dataset.stats["aloha"], dataset.datasets[0]
    assert_statistics(stats["proprio"], pi_states(part.column("observation.state")))
    assert_statistics(stats["action"], pi_actions(part.column("action")))
    assert_statistics(stats["timestamp"], part.column("timestamp")[:, None])


def test_relative_actions_are_measured_after_both_transforms(v21: Path) -> None:
    dataset = dataset_of(v21, AlohaToPi(), RelativeActions(mask=MASK)).build()
    stats, part = dataset.stats["aloha"], dataset.datasets[0]
    assert_statistics(stats["proprio"], pi_states(part.column("observation.state")))
    samples = [part.raw_sample(index) for index in range(len(part))]
    relative = [
        (pi_actions(s.actions) - MASK * pi_states(s.state))[s.action_masks] for s in samples
    ]
    assert_statistics(stats["action"], np.concatenate(relative))


def test_next_states_as_actions_are_measured_as_actions(v21: Path) -> None:
    mappings = {"observation.state": ("proprio", "action")}
    config = dataset_of(
        v21, AlohaToPi(), statistic_keys=("observation.state",), name_mappings=mappings
    )
    dataset = config.build()
    states = dataset.datasets[0].column("observation.state")
    assert_statistics(dataset.stats["aloha"]["proprio"], pi_states(states))
    assert_statistics(dataset.stats["aloha"]["action"], pi_actions(states))


def test_statistics_have_the_names_that_the_normalisation_expects(v21: Path) -> None:
    normalize = NormalizeStatesAndActions(state_key="s", action_key="a")
    for transforms in ((), (RelativeActions(mask=MASK),)):
        config = dataset_of(
            v21,
            *(AlohaToPi(), *transforms, normalize),
            name_mappings={"observation.state": ("s",), "action": ("a",)},
        )
        dataset = config.build()
        stats, part = dataset.stats["aloha"], dataset.datasets[0]
        assert set(stats) == {"s", "a", "timestamp"}
        assert_statistics(stats["s"], pi_states(part.column("observation.state")))
        sample, raw = dataset[3], part.raw_sample(3)
        state = pi_states(raw.state)
        expected = (state - stats["s"].mean) / (np.array(stats["s"].std) + 1e-6)
        np.testing.assert_allclose(sample["states"], expected, atol=1e-4)
        actions = pi_actions(raw.actions) - (MASK * state if transforms else 0)
        expected = (actions - stats["a"].mean) / (np.array(stats["a"].std) + 1e-6)
        np.testing.assert_allclose(sample["actions"], expected, atol=1e-4)


def test_the_minimum_range_is_in_pis_units(v21: Path) -> None:
    """A command's range of 1 is 2.11 in pi's units, so a minimum of 1.5 does not change it."""
    exact = dataset_of(v21, AlohaToPi()).build().stats["aloha"]["action"]
    wide = dataset_of(v21, AlohaToPi(), min_range=1.5).build().stats["aloha"]["action"]
    for dim in range(14):
        spread, was = (s.max[dim] - s.min[dim] for s in (wide, exact))
        assert spread == pytest.approx(max(was, 1.5))
    assert wide.max[6] == exact.max[6] and exact.max[6] - exact.min[6] > 1.5


def test_cached_statistics_belong_to_the_same_transforms(
    v21: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    computed: list[int] = []
    original = repeating_dataset.exact_stats
    monkeypatch.setattr(
        repeating_dataset, "exact_stats", lambda *a: computed.append(1) or original(*a)
    )
    plain = dataset_of(v21).build().stats
    adapted = dataset_of(v21, AlohaToPi()).build().stats
    assert len(computed) == 2 and plain != adapted
    assert dataset_of(v21, AlohaToPi()).build().stats == adapted
    assert dataset_of(v21).build().stats == plain and len(computed) == 2


def test_statistics_are_computed_again_when_foreign_code_has_changed(
    v21: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    code = (
        "from dataclasses import dataclass\n"
        "from flux_core.transforms import UnitStep\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Doubles(UnitStep):\n"
        "    action_affine = (0.5, 0.0)\n"
        "    def state(self, states): return 3 * states\n"
    )
    path = tmp_path / "doubling_of_units.py"
    path.write_text(code)
    step = importlib.import_module("doubling_of_units").Doubles()
    stats = dataset_of(v21, step).build().stats["aloha"]
    plain = dataset_of(v21).build().stats["aloha"]
    np.testing.assert_allclose(stats["action"].mean, 2 * np.array(plain["action"].mean), rtol=1e-5)
    computed: list[int] = []
    original = repeating_dataset.exact_stats
    monkeypatch.setattr(
        repeating_dataset, "exact_stats", lambda *a: computed.append(1) or original(*a)
    )
    assert dataset_of(v21, step).build().stats["aloha"] == stats and not computed
    path.write_text(code.replace("3 *", "4 *"))
    dataset_of(v21, step).build()
    assert len(computed) == 1


def test_a_wrong_order_is_refused(v21: Path) -> None:
    with pytest.raises(ConfigError, match="transforms: expected AlohaToPi before RelativeActions"):
        dataset_of(v21, RelativeActions(mask=MASK), AlohaToPi())
    config = config_of(v21)
    first = dataclasses.replace(config, transforms=(AlohaToPi(), *config.transforms))
    with pytest.raises(ConfigError, match="expected ProcessParquetInputs first, found AlohaToPi"):
        first.build()


def test_data_of_another_robot_is_refused(shared_data: Path) -> None:
    """A G1 has 26 dimensions."""
    config = dataset_of(shared_data / "lerobot" / "g1_real", AlohaToPi())
    dataset = config.groups()["aloha"][0]
    inputs = dataclasses.replace(dataset.transforms[0], video_keys=())
    other = dataclasses.replace(dataset, transforms=(inputs, *dataset.transforms[1:]))
    with pytest.raises(ConfigError, match=r"AlohaToPi: expected 14 dimensions .*, got 26"):
        dataclasses.replace(config, datasets=other).build()
