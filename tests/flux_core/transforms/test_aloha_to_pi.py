"""Aloha's units and pi's: numbers computed elsewhere, inverses, and the orders that are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flux_core.config import bind, unbind
from flux_core.deployment import AlohaInferenceRunner, InferenceRunner
from flux_core.errors import ConfigError
from flux_core.norm_stats import compute_stats
from flux_core.policy_io import PolicyIO
from flux_core.transforms import (
    AlohaToPi,
    NormalizeStatesAndActions,
    PadKeyToDim,
    Pipeline,
    RelativeActions,
    Transform,
    apply,
)

MASK = (*(True,) * 6, False) * 2
GRIPPERS = [6, 13]
FLIPPED = [1, 2, 8, 9]

# From openpi's formulas with `bc`, 40 digits, the arcsine as an arctangent:
#   l = x (0.058 - 0.01844) + 0.01844;  s = (0.022^2 + l^2 - 0.036^2) / (0.044 l)
#   (arcsin(s) - 0.5476) / (1.6296 - 0.5476)
STATE_OF_OPENING = {
    0.0: -1.07986554751329,
    0.25: -0.51307760688142,
    0.5: -0.14005592170214,
    0.75: 0.22332757987422,
    1.0: 0.94565279740748,
}
#   x (1.4910 + 0.6213) - 0.6213 - 0.5476
PI_OF_ACTION = {0.0: -1.1689, 0.25: -0.640825, 0.5: -0.11275, 1.0: 0.9434}

joints = st.floats(-3.25, 3.25, width=32)
openings = st.floats(-7 / 64, 1.0, width=32)  # -7 / 64 = -0.109
commands = st.floats(-0.5, 1.5, width=32)


def vectors(gripper: st.SearchStrategy[float], rows: int) -> st.SearchStrategy[np.ndarray]:
    """(rows, 14) float32 with `gripper` at 6 and 13."""
    arm = st.tuples(*[joints] * 6, gripper)
    row = st.tuples(arm, arm).map(lambda arms: [*arms[0], *arms[1]])
    return st.lists(row, min_size=rows, max_size=rows).map(lambda x: np.array(x, np.float32))


@pytest.mark.parametrize(("opening", "expected"), STATE_OF_OPENING.items())
def test_a_grippers_state_is_openpis_angle(opening: float, expected: float) -> None:
    found = AlohaToPi().state(np.full((3, 14), opening, np.float32))
    np.testing.assert_allclose(found[:, GRIPPERS], expected, atol=1e-6)


@pytest.mark.parametrize(("command", "expected"), PI_OF_ACTION.items())
def test_a_grippers_action_is_openpis_angle(command: float, expected: float) -> None:
    found = AlohaToPi().actions(np.full((3, 14), command, np.float32))
    np.testing.assert_allclose(found[:, GRIPPERS], expected, atol=1e-6)


def test_shoulders_and_elbows_change_sign_and_other_joints_do_not() -> None:
    values = np.linspace(-3, 3, 28, dtype=np.float32).reshape(2, 14)
    for found in (AlohaToPi().state(values), AlohaToPi().actions(values)):
        for joint in set(range(14)) - set(GRIPPERS):
            sign = -1 if joint in FLIPPED else 1
            np.testing.assert_array_equal(found[:, joint], sign * values[:, joint])


# 2^-24 of a travel of 58 mm, an angle of pi / 2 and a motor range of 2.1 rad, a few times each.
@given(vectors(openings, 3))
def test_state_inverse_undoes_state(states: np.ndarray) -> None:
    transform = AlohaToPi()
    np.testing.assert_allclose(transform.state_inverse(transform.state(states)), states, atol=1e-6)


@given(vectors(commands, 3))
def test_actions_inverse_undoes_actions(actions: np.ndarray) -> None:
    transform = AlohaToPi()
    found = transform.actions_inverse(transform.actions(actions))
    np.testing.assert_allclose(found, actions, atol=1e-6)
    twice = transform.actions(transform.actions(actions))
    np.testing.assert_array_equal(np.delete(twice, GRIPPERS, -1), np.delete(actions, GRIPPERS, -1))


@given(vectors(openings, 1), vectors(commands, 4))
def test_relative_actions_after_it_are_undone_in_reverse(
    state: np.ndarray, actions: np.ndarray
) -> None:
    adapt, relative = AlohaToPi(), RelativeActions(mask=MASK)
    sample = apply([adapt, relative], {"states": state[0], "actions": actions})
    absolute = relative.inverse(sample["actions"], adapt.state(state[0]))
    np.testing.assert_allclose(adapt.actions_inverse(absolute), actions, atol=2e-6)


@given(arrays(np.float32, 50, elements=st.floats(-3, 3, width=32)))
def test_an_opening_beyond_the_cranks_range_is_clipped_to_it(openings: np.ndarray) -> None:
    states = np.zeros((50, 14), np.float32)
    states[:, 6] = np.sort(openings)
    found = AlohaToPi().state(states)[:, 6]
    assert np.isfinite(found).all() and (np.diff(found) >= 0).all()
    # The arm and the horn in line: pi / 2 at one end, -pi / 2 at the other.
    ends = (np.array([-np.pi / 2, np.pi / 2]) - 0.5476) / 1.082
    assert found.min() >= ends[0] - 1e-6 and found.max() <= ends[1] + 1e-6
    np.testing.assert_allclose(found[states[:, 6] <= -0.1123], ends[0], atol=1e-6)
    np.testing.assert_allclose(found[states[:, 6] >= 1.0], ends[1], atol=1e-6)


def test_a_robots_sample_needs_no_actions_and_inputs_are_not_modified() -> None:
    states, actions = np.ones(14, np.float32), np.ones((2, 14), np.float32)
    out = AlohaToPi()({"states": states, "actions": actions, "prompt": "x"})
    assert out["prompt"] == "x" and out["actions"].dtype == out["states"].dtype == np.float32
    assert (states == 1).all() and (actions == 1).all()
    np.testing.assert_array_equal(AlohaToPi()({"states": states})["states"], out["states"])


def test_it_round_trips_through_configs_by_its_name() -> None:
    assert bind(Transform, {"type": "AlohaToPi"}, "t") == AlohaToPi()
    assert unbind(AlohaToPi()) == {"type": "AlohaToPi"}
    with pytest.raises(ConfigError, match="AlohaToPi has no field 'adapt'"):
        bind(Transform, {"type": "AlohaToPi", "adapt": True}, "t")


def test_one_arm_is_refused() -> None:
    for convert in (AlohaToPi().state, AlohaToPi().actions):
        with pytest.raises(ConfigError, match=r"AlohaToPi: expected 14 dimensions .*, got 7"):
            convert(np.zeros((3, 7), np.float32))


RELATIVE, NORMALIZE = RelativeActions(mask=MASK), NormalizeStatesAndActions()
PAD = PadKeyToDim(keys=("states", "actions"), dim=32)


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ((RELATIVE, AlohaToPi()), "t: expected AlohaToPi before RelativeActions, got it after"),
        ((NORMALIZE, AlohaToPi()), "t: expected AlohaToPi before NormalizeStatesAndActions"),
        ((PAD, AlohaToPi()), "t: expected AlohaToPi before PadKeyToDim"),
        ((NORMALIZE, RELATIVE), "t: expected RelativeActions before NormalizeStatesAndActions"),
        ((AlohaToPi(), AlohaToPi()), "t: expected AlohaToPi once, got 2 of them"),
        ((RELATIVE, RELATIVE), "t: expected RelativeActions once, got 2 of them"),
        (
            (AlohaToPi(), RelativeActions(mask=(True,) * 14)),
            "t: RelativeActions.mask: after AlohaToPi expected 14 entries with False at 6 and 13",
        ),
        ((AlohaToPi(), RelativeActions(mask=MASK[:7])), "expected 14 entries"),
    ],
)
def test_what_the_robot_could_not_undo_is_refused(transforms: Sequence[Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Pipeline(tuple(transforms), where="t").check()
    assert message in str(error.value)


def test_openpis_order_is_accepted_with_and_without_each_part() -> None:
    Pipeline(()).check()
    Pipeline((AlohaToPi(), RELATIVE, PAD, NORMALIZE)).check()
    Pipeline((AlohaToPi(), NORMALIZE)).check()
    Pipeline((RelativeActions(mask=(True,) * 14), NORMALIZE)).check()


def runner_tree(robot: str, *transforms: dict[str, Any]) -> dict[str, Any]:
    prompts = {"type": "ProcessPrompts", "tokenizer": {"type": "ByteTokenizer"}, "max_len": 400}
    shared = [
        {"type": "NormalizeStatesAndActions", "norm_type": "quantile"},
        {"type": "PreparePromptWithState"},
        prompts,
    ]
    return {
        "type": "AlohaInferenceRunner" if robot == "aloha" else "URInferenceRunner",
        "task_descriptions": {"1": "fold"},
        "dataset": {"img_keys": ["cam_high"], "transforms": [*transforms, *shared]},
        "denormalize_action": {"norm_type": "quantile"},
    }


ADAPT = {"type": "AlohaToPi"}
RELATIVE_TREE = {"type": "RelativeActions", "mask": list(MASK)}


def test_a_robot_with_other_joints_is_refused_with_the_place() -> None:
    with pytest.raises(ConfigError, match=r"inference.dataset.transforms.0: .*14 joints .*got ur3"):
        bind(InferenceRunner, runner_tree("ur3", ADAPT), "inference")


def test_the_robots_transforms_are_checked_with_the_place() -> None:
    with pytest.raises(ConfigError, match=r"inference\.dataset\.transforms: expected AlohaToPi be"):
        bind(InferenceRunner, runner_tree("aloha", RELATIVE_TREE, ADAPT), "inference")


@given(state=vectors(openings, 1), normalised=arrays(np.float32, (5, 14), elements=joints))
def test_scale_and_offset_do_what_the_transforms_undo_one_by_one(
    state: np.ndarray, normalised: np.ndarray
) -> None:
    stats = {
        name: compute_stats(np.random.default_rng(seed).normal(size=(50, 14)))
        for seed, name in enumerate(("proprio", "action"))
    }
    runner = bind(AlohaInferenceRunner, runner_tree("aloha", ADAPT, RELATIVE_TREE), "inference")
    io = PolicyIO.from_policy(runner, {"aloha": stats})
    scale, offset = stats["action"].affine("quantile")
    adapt = AlohaToPi()
    in_pi = RelativeActions(mask=MASK).inverse(normalised * scale + offset, adapt.state(state[0]))
    expected = adapt.actions_inverse(in_pi)
    found = io.decode(normalised, state[0])
    # A sign commutes with every rounding; the gripper's factor does not.
    np.testing.assert_array_equal(np.delete(found, GRIPPERS, 1), np.delete(expected, GRIPPERS, 1))
    np.testing.assert_allclose(found, expected, atol=3e-6)
    np.testing.assert_allclose(io.mean_state, adapt.state_inverse(np.array(stats["proprio"].mean)))
