"""Normalisation with a rule for each key, against NVIDIA's own, and its way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from flux_core.config import bind, unbind
from flux_core.errors import ConfigError, DataError
from flux_core.norm_stats import FeatureStats
from flux_core.transforms import (
    DenormalizeActions,
    NormalizeStatesAndActions,
    Pipeline,
    RelativeActions,
)

DIM, CONSTANT = 6, 3
RULES = ("min_max", "q99", "mean_std", "binary")
MIXED = (("arm", 2, "min_max"), ("wrist", 2, "q99"), ("lift", 1, "mean_std"), ("grip", 1, "binary"))


@pytest.fixture(scope="module")
def reference(shared_data: Path) -> dict[str, NDArray[Any]]:
    stored = load_file(shared_data / "parity-gr00t" / "preprocess.safetensors")
    return {name.removeprefix("norm."): x for name, x in stored.items() if name.startswith("norm.")}


@pytest.fixture(scope="module")
def stats(reference: dict[str, NDArray[Any]]) -> FeatureStats:
    names = ("mean", "std", "min", "max", "q01", "q99")
    columns = {name: tuple(map(float, reference[f"stats_{name}"])) for name in names}
    return FeatureStats(**columns, count=24)


def normalized(keys: Any, values: NDArray[Any], stats: FeatureStats) -> dict[str, Any]:
    transform = NormalizeStatesAndActions(state_keys=keys, action_keys=keys)
    sample = {"states": values[0], "actions": values, "stats": {"proprio": stats, "action": stats}}
    return transform(sample)


def pipeline(keys: Any, *units: Any) -> Pipeline:
    transform = NormalizeStatesAndActions(state_keys=keys, action_keys=keys)
    return Pipeline((*units, transform), denormalize=DenormalizeActions(action_keys=keys))


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_gives_nvidias_numbers_and_comes_back(
    rule: str, reference: dict[str, NDArray[Any]], stats: FeatureStats
) -> None:
    keys, x = (("all", DIM, rule),), reference["x"]
    out = normalized(keys, x, stats)
    np.testing.assert_allclose(out["actions"], reference[rule], atol=1e-6)
    np.testing.assert_allclose(out["states"], reference[rule][0], atol=1e-6)
    all_stats = {"proprio": stats, "action": stats}
    back = pipeline(keys).inverse(out["actions"], x[0], all_stats)
    expected = reference[f"{rule}_inverse_of_forward"].copy()
    if rule in ("q99", "mean_std"):
        # NVIDIA leaves a constant dimension's inverse alone; ours gives the constant back.
        expected[:, CONSTANT] = back[:, CONSTANT]
    np.testing.assert_allclose(back, expected, atol=1e-5)


def test_each_key_has_its_own_rule(reference: dict[str, NDArray[Any]], stats: FeatureStats) -> None:
    out = normalized(MIXED, reference["x"], stats)
    place = 0
    for _, size, rule in MIXED:
        part = slice(place, place + size)
        np.testing.assert_allclose(out["actions"][:, part], reference[rule][:, part], atol=1e-6)
        place += size


def test_sines_and_cosines_widen_the_state_and_are_not_normalised(
    reference: dict[str, NDArray[Any]], stats: FeatureStats
) -> None:
    x = reference["x"]
    transform = NormalizeStatesAndActions(state_keys=(("all", DIM, "sin_cos"),), state_dim=16)
    out = transform({"states": x[0], "stats": {"proprio": stats}})
    np.testing.assert_allclose(out["states"][: 2 * DIM], reference["sincos"][0], atol=1e-6)
    assert out["num_state_dims"] == 2 * DIM and not out["states"][2 * DIM :].any()
    keys = (("left", 2, "sin_cos"), ("grip", 1, "min_max"), ("right", 3, "sin_cos"))
    transform = NormalizeStatesAndActions(state_keys=keys)
    found = transform({"states": x[0], "stats": {"proprio": stats}})["states"]
    left, right = x[0, :2], x[0, 3:]
    expected = [
        np.sin(left),
        np.cos(left),
        reference["min_max"][0, 2:3],
        np.sin(right),
        np.cos(right),
    ]
    np.testing.assert_allclose(found, np.concatenate(expected), atol=1e-6)


def test_a_binary_action_is_0_or_1_on_the_robot(stats: FeatureStats) -> None:
    all_stats = {"proprio": stats, "action": stats}
    inverse = pipeline(MIXED).action_inverse(all_stats)
    assert inverse.binary_mask is not None
    np.testing.assert_array_equal(inverse.binary_mask, [False] * 5 + [True])
    assert (inverse.scale[5], inverse.offset[5]) == (1.0, 0.0)
    outputs = np.zeros((4, 32), np.float32)
    outputs[:, 5] = [-3.0, 0.5, 0.501, 40.0]
    decoded = inverse(outputs, np.zeros(DIM, np.float32))
    assert decoded[:, 5].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert pipeline((("all", DIM, "min_max"),)).action_inverse(all_stats).binary_mask is None


def test_a_binary_action_cannot_be_relative(stats: FeatureStats) -> None:
    all_stats = {"proprio": stats, "action": stats}
    relative = RelativeActions(mask=(True,) * DIM)
    with pytest.raises(ConfigError, match="action_keys: dimension 5 is binary, but a transform"):
        pipeline(MIXED, relative).action_inverse(all_stats)
    kept = RelativeActions(mask=(True,) * 5 + (False,))
    assert pipeline(MIXED, kept).action_inverse(all_stats).relative_mask[:5].all()


def test_dimensions_after_the_last_key_are_padding(stats: FeatureStats) -> None:
    out = normalized((("arm", 2, "min_max"),), np.ones((3, DIM), np.float32), stats)
    np.testing.assert_array_equal(out["actions"][:, 2:], 1.0)
    with pytest.raises(DataError, match=r"expected 6 dimensions .*, got arm 7"):
        normalized((("arm", 7, "min_max"),), np.ones((3, DIM), np.float32), stats)


def test_a_pipeline_with_keys_passes_the_checks_of_a_config() -> None:
    pipeline(MIXED).check()
    pipeline(MIXED, RelativeActions(mask=(True,) * 5 + (False,))).check()


def test_a_config_writes_keys_as_lists() -> None:
    tree = {"type": "NormalizeStatesAndActions", "action_keys": [["arm", 6, "q99"]]}
    bound = bind(NormalizeStatesAndActions, tree)
    assert bound.action_keys == (("arm", 6, "q99"),)
    assert bind(NormalizeStatesAndActions, unbind(bound)) == bound


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([["arm", 6, "q9"]], "action_keys.0.2: expected 'min_max'"),
        ([["arm", 6, "sin_cos"]], "action_keys.0.2: expected 'min_max'"),
        ([["arm", 0, "q99"]], "action_keys: 'arm': expected at least 1 dimension"),
        ([["arm", 1, "q99"], ["arm", 1, "q99"]], "action_keys: expected each key once"),
        ([["arm", 1]], "action_keys.0: expected 3 values, got 2"),
    ],
)
def test_wrong_keys_are_refused(keys: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        bind(NormalizeStatesAndActions, {"action_keys": keys}, "step")
    assert f"step.{message}" in str(error.value)
