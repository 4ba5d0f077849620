"""A state's rotations as six numbers, against SciPy's rotations."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from flux_core.config import bind
from flux_core.errors import ConfigError, DataError
from flux_core.norm_stats import FeatureStats
from flux_core.transforms import ROTATION_TYPES, NormalizeStatesAndActions, rotation_type_of
from flux_core.transforms.gr00t import rotation_6d
from flux_core.transforms.gr00t.rotations import RotationRule

AXES = str.maketrans("rpy", "XYZ")
KINDS = [rotation_type_of(rule) for rule in get_args(RotationRule)]


def scipys(values: NDArray[Any], kind: str) -> Rotation:
    if kind == "quaternion":
        return Rotation.from_quat(values, scalar_first=True)
    if kind == "axis_angle":
        return Rotation.from_rotvec(values)
    # Capital letters: about the axes of the moving body.
    return Rotation.from_euler(kind.rpartition("_")[2].translate(AXES), values)


@pytest.mark.parametrize("kind", KINDS)
def test_six_numbers_are_the_first_two_rows_of_scipys_matrix(kind: str) -> None:
    random = np.random.default_rng(3)
    values = 3.0 * random.normal(size=(200, 4 if kind == "quaternion" else 3))
    # No rotation at all, a tiny one, half and whole turns.
    edges = [[0, 0, 0], [1e-9, 0, 0], [np.pi, 0, 0], [0, 0, -np.pi], [0, 2 * np.pi, 0]]
    if kind == "quaternion":
        edges = [[1, 0, 0, 0], [-2, 0, 0, 0], [0, 1e-3, 0, 0], [0, 0, 0, 5], [1e-4, 0, 1, 0]]
    values[: len(edges)] = edges
    expected = scipys(values, kind).as_matrix()[:, :2].reshape(-1, 6)
    found = rotation_6d(values.reshape(4, 50, -1), kind)
    assert found.dtype == np.float32 and found.shape == (4, 50, 6)
    np.testing.assert_allclose(found.reshape(-1, 6), expected, rtol=0, atol=1e-6)


def test_every_kind_of_nvidia_has_a_rule_or_stays_as_it_is() -> None:
    assert {*KINDS, "rotation_6d", "matrix"} == {*ROTATION_TYPES}
    assert rotation_type_of("sin_cos") is None


def test_a_rotation_is_one_key_of_a_state_and_is_not_normalised() -> None:
    stats = FeatureStats(
        **dict.fromkeys(("mean", "min", "q01"), (0.5,) * 6),
        **dict.fromkeys(("std", "max", "q99"), (2.5,) * 6),
        count=9,
    )
    keys = (("place", 1, "min_max"), ("turn", 4, "quaternion_to_rotation_6d"), ("rest", 1, "none"))
    step = NormalizeStatesAndActions(state_keys=keys, state_dim=12)
    state = np.array([1.5, 0.5, -0.5, 0.5, 0.5, 7.0], np.float32)
    out = step({"states": state, "stats": {"proprio": stats}})
    turn = Rotation.from_quat(state[1:5], scalar_first=True).as_matrix()[:2].ravel()
    expected = [0.0, *turn, 7.0, *[0.0] * 4]
    np.testing.assert_allclose(out["states"], expected, atol=1e-6)
    assert out["num_state_dims"] == 8
    with pytest.raises(DataError, match="quaternions that are not zero"):
        step({"states": np.zeros(6, np.float32), "stats": {"proprio": stats}})


@pytest.mark.parametrize(
    ("field", "key", "message"),
    [
        ("state_keys", ["turn", 9, "matrix_to_rotation_6d"], "got 'matrix_to_rotation_6d'"),
        ("state_keys", ["turn", 3, "euler_angles_xyz_to_rotation_6d"], "got 'euler_angles_xyz"),
        ("state_keys", ["turn", 3, "quaternion_to_rotation_6d"], "'turn': expected 4 dimensions"),
        ("state_keys", ["turn", 4, "axis_angle_to_rotation_6d"], "'turn': expected 3 dimensions"),
        ("action_keys", ["turn", 4, "quaternion_to_rotation_6d"], "got 'quaternion_to_rotation"),
    ],
)
def test_what_is_not_converted_is_refused_by_name(field: str, key: list[Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        bind(NormalizeStatesAndActions, {field: [key]}, "step")
    assert f"step.{field}" in str(error.value) and message in str(error.value)
