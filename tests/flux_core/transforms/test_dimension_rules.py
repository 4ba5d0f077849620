"""Normalisation per dimension, against NVIDIA's own transforms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from flux_core.errors import ConfigError, DataError
from flux_core.norm_stats import FeatureStats
from flux_core.transforms.gr00t import DimensionRules, sine_and_cosine

DIM, CONSTANT = 6, 3
RULES = ("min_max", "q99", "mean_std", "binary")


@pytest.fixture(scope="module")
def reference(shared_data: Path) -> dict[str, NDArray[Any]]:
    return load_file(shared_data / "parity-gr00t" / "preprocess.safetensors")


@pytest.fixture(scope="module")
def stats(reference: dict[str, NDArray[Any]]) -> FeatureStats:
    columns = ("mean", "std", "min", "max", "q01", "q99")
    values = {name: tuple(reference[f"norm.stats_{name}"].tolist()) for name in columns}
    return FeatureStats(**values, count=24)


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_and_its_way_back_agree(reference, stats: FeatureStats, rule: Any) -> None:
    rules = DimensionRules((rule,) * DIM)
    normal = rules.normalize(reference["norm.x"], stats)
    np.testing.assert_allclose(normal, reference[f"norm.{rule}"], rtol=1e-6, atol=1e-6)
    back = rules.denormalize(normal, stats)
    expected = reference[f"norm.{rule}_inverse_of_forward"]
    np.testing.assert_allclose(back, expected, rtol=1e-6, atol=1e-6)
    if rule != "binary":
        scale, offset = rules.affine(stats)
        np.testing.assert_allclose(normal * scale + offset, expected, rtol=1e-5, atol=1e-5)


def test_sines_and_cosines_agree(reference) -> None:
    found = sine_and_cosine(reference["norm.x"])
    np.testing.assert_allclose(found, reference["norm.sincos"], rtol=0, atol=1e-6)


def test_each_dimension_follows_its_own_rule(reference, stats: FeatureStats) -> None:
    rules = DimensionRules(("q99", "binary", "min_max", "min_max", "none", "mean_std"))
    normal = rules.normalize(reference["norm.x"], stats)
    for dim, rule in enumerate(rules.rules):
        key = "norm.x" if rule == "none" else f"norm.{rule}"
        np.testing.assert_allclose(normal[:, dim], reference[key][:, dim], rtol=1e-6, atol=1e-6)
    assert rules.is_binary.tolist() == [False, True, False, False, False, False]
    assert not normal[:, CONSTANT].any()
    back = rules.denormalize(np.full(DIM, 5.0), stats)
    assert back[CONSTANT] == np.float32(stats.min[CONSTANT]), "a constant has one way back"


def test_unknown_rules_and_statistics_of_another_robot_are_refused(stats: FeatureStats) -> None:
    unknown: Any = ("min_max", "maxmin")
    with pytest.raises(ConfigError, match=r"expected one of min_max, .*got 'maxmin'"):
        DimensionRules(unknown)
    with pytest.raises(DataError, match=r"statistics of 2 dimensions \(the rules\), got 6"):
        DimensionRules(("none", "none")).normalize(np.zeros(2), stats)
