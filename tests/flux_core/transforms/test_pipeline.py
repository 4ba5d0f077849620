"""A pipeline combines its transforms, and refuses what the robot could not undo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flux_core.config import bind, unbind
from flux_core.deployment import AlohaInferenceRunner, ObservationTransforms
from flux_core.errors import ConfigError, DataError
from flux_core.norm_stats import FeatureStats, compute_stats
from flux_core.policy_io import PolicyIO
from flux_core.robots import robot_spec
from flux_core.tokenizers import ByteTokenizer, PretrainedTokenizer
from flux_core.transforms import (
    AlohaToPi,
    Augmentation,
    AugmentImages,
    DenormalizeActions,
    ImageNormalization,
    ImageResize,
    ModelInputs,
    Normalization,
    NormalizeImages,
    NormalizeStatesAndActions,
    PadKeyToDim,
    Pipeline,
    PreparePromptWithState,
    ProcessPrompts,
    Prompter,
    RelativeActions,
    ResizeImages,
    ResizeImagesWithPad,
    Sample,
    SimpleNormalizeImages,
    TaskPrompter,
    Tokenization,
    Transform,
    UnitStep,
)

from . import foreign

MASK = (*(True,) * 6, False) * 2
WORDS = ByteTokenizer()
OBSERVATION = (
    NormalizeStatesAndActions(norm_type="quantile"),
    PreparePromptWithState(),
    ProcessPrompts(tokenizer=WORDS, max_len=300),
    ResizeImages(height=8, width=8),
    SimpleNormalizeImages(),
)


def statistics(dims: int, seed: int = 0) -> dict[str, FeatureStats]:
    random = np.random.default_rng(seed)
    return {
        name: compute_stats(random.normal(size=(50, dims), scale=3.0))
        for name in ("proprio", "action")
    }


def observation(dims: int = 14) -> Sample:
    random = np.random.default_rng(0)
    return {
        "images": random.integers(0, 256, (2, 12, 16, 3), dtype=np.uint8),
        "image_masks": np.ones(2, np.bool_),
        "states": random.uniform(0, 1, dims).astype(np.float32),
        "task_description": "fold the towel",
        "stats": statistics(dims),
    }


# Changes to actions are undone.


@st.composite
def undoable_steps(draw: st.DrawFn) -> tuple[tuple[UnitStep, ...], int]:
    """Unit steps that the robot can undo: affine ones around at most one relative one.

    Before it, if a step treats states and actions differently, that dimension stays absolute.
    """
    dims = draw(st.integers(1, 5))
    sizes = st.floats(0.25, 4.0, width=32)
    factor = st.tuples(sizes, st.sampled_from([-1.0, 1.0])).map(lambda pair: pair[0] * pair[1])

    def affine(states_too: bool) -> foreign.Affine:
        scale, offset = (
            tuple(draw(st.lists(each, min_size=dims, max_size=dims)))
            for each in (factor, st.floats(-3, 3, width=32))
        )
        return foreign.Affine(scale=scale, offset=offset, states_too=states_too)

    before = [affine(draw(st.booleans())) for _ in range(draw(st.integers(0, 2)))]
    after = [affine(draw(st.booleans())) for _ in range(draw(st.integers(0, 2)))]
    may_be_relative = all(step.states_too for step in before)
    mask = draw(st.lists(st.booleans(), min_size=dims, max_size=dims))
    kind = draw(st.sampled_from(["ours", "foreign", "none"]))
    if kind == "none" or not may_be_relative:
        return (*before, *after), dims
    relative: UnitStep = (
        RelativeActions(mask=tuple(mask))
        if kind == "ours"
        else foreign.ToState(dims_made_relative=tuple(mask))
    )
    return (*before, relative, *after), dims


@given(steps=undoable_steps(), data=st.data())
def test_any_stack_of_unit_steps_is_undone_by_one_scale_offset_and_state(
    steps: tuple[tuple[UnitStep, ...], int], data: Any
) -> None:
    unit_steps, dims = steps
    numbers = st.floats(-5, 5, width=32)
    state = data.draw(arrays(np.float32, dims, elements=numbers))
    actions = data.draw(arrays(np.float32, (4, dims), elements=numbers))
    width = data.draw(st.integers(dims, 7))
    pad = PadKeyToDim(keys=("states", "actions"), dim=width)
    pipeline = Pipeline((*unit_steps, pad, NormalizeStatesAndActions()))
    pipeline.check()
    stats = {name: feature.padded(width) for name, feature in statistics(dims).items()}
    after = pipeline({"states": state, "actions": actions, "stats": stats})
    assert after["actions"].shape == (4, width)

    inverse = pipeline.action_inverse(stats, dims)
    found = inverse(after["actions"], state)
    # Four affine maps with factors up to 4 of numbers up to 5 + 3, each a few roundings.
    tolerance = 4 * 4.0**4 * 8 * 2.0**-24
    np.testing.assert_allclose(found, actions, atol=tolerance)
    np.testing.assert_array_equal(found, pipeline.inverse(after["actions"], state, stats, dims))
    scale, offset = pipeline.action_affine(stats, dims)
    mask = pipeline.relative_mask(dims)
    plain = after["actions"][:, :dims] * scale + offset + mask * state
    np.testing.assert_allclose(found, plain, atol=1e-6)
    assert pipeline.is_relative == any(s.relative_mask is not None for s in unit_steps)


@given(steps=undoable_steps(), data=st.data())
def test_the_inverse_equals_that_of_the_steps_one_by_one(
    steps: tuple[tuple[UnitStep, ...], int], data: Any
) -> None:
    unit_steps, dims = steps
    numbers = st.floats(-5, 5, width=32)
    state = data.draw(arrays(np.float32, (3, dims), elements=numbers))
    normalised = data.draw(arrays(np.float32, (3, 4, dims), elements=numbers))
    pipeline, stats = Pipeline((*unit_steps, NormalizeStatesAndActions())), statistics(dims)
    states = [state]
    for step in unit_steps:
        states.append(step.state(states[-1]))
    np.testing.assert_array_equal(pipeline.states(state), states[-1])
    np.testing.assert_allclose(pipeline.state_inverse(states[-1]), state, atol=1e-3)
    scale, offset = stats["action"].affine("mean_std")
    expected = normalised * scale + offset
    for step, before in zip(reversed(unit_steps), reversed(states[:-1]), strict=True):
        expected = step.inverse(expected, before)
    found = pipeline.inverse(normalised, state, stats)
    largest = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found, expected, atol=1e-4 * largest)


def test_absolute_actions_are_converted_only_by_the_affine_steps() -> None:
    affine = foreign.Affine(scale=(2.0, 4.0), offset=(1.0, 0.0))
    relative = RelativeActions(mask=(True, False))
    values = np.array([[3.0, 8.0]], np.float32)
    pipeline = Pipeline((affine, relative, NormalizeStatesAndActions()))
    assert pipeline.unit_steps == (affine, relative)
    np.testing.assert_array_equal(pipeline.actions(values), [[1.0, 2.0]])
    np.testing.assert_array_equal(pipeline.states(values), [[1.0, 2.0]])


def test_the_robots_denormalisation_replaces_that_of_the_transforms() -> None:
    stats = statistics(3)
    own = Pipeline((NormalizeStatesAndActions(norm_type="quantile"),))
    robots = replace(own, denormalize=DenormalizeActions(norm_type="min_max", action_dim=2))
    for pipeline, norm_type, dims in ((own, "quantile", 3), (robots, "min_max", 2)):
        scale, offset = pipeline.action_affine(stats)
        expected = stats["action"].affine(norm_type)
        np.testing.assert_array_equal(scale, expected[0][:dims])
        np.testing.assert_array_equal(offset, expected[1][:dims])
    with pytest.raises(DataError, match=r"expected statistics of 'action', got \['proprio'\]"):
        own.action_affine({"proprio": stats["proprio"]})
    with pytest.raises(ConfigError, match="expected one NormalizeStatesAndActions, got 0"):
        Pipeline(()).action_affine(stats)


def test_a_step_of_another_width_than_the_statistics_is_refused_by_name() -> None:
    stats = statistics(7)
    with pytest.raises(ConfigError, match="AlohaToPi: expected statistics of 14 action .*, got 7"):
        Pipeline((AlohaToPi(), NormalizeStatesAndActions())).action_affine(stats)
    with pytest.raises(ConfigError, match=r"RelativeActions\.mask: expected 7 entries, got 14"):
        Pipeline((RelativeActions(mask=MASK), NormalizeStatesAndActions())).action_affine(stats)


RELATIVE = RelativeActions(mask=(True,) * 6)
SAME = foreign.Affine(scale=(2.0,) * 6, offset=(1.0,) * 6)
ACTIONS_ALONE = foreign.Affine(scale=(1.0, 1.0, 2.0, 1.0, 1.0, 1.0), offset=(0.0,) * 6)


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ((foreign.HalvesActions(),), "t: HalvesActions changes actions but does not declare how"),
        ((foreign.WritesIntoActions(),), "t: WritesIntoActions changes the given actions in place"),
        ((foreign.LosesActions(),), "t: LosesActions drops the sample's actions"),
        ((foreign.SwapsArms(),), "t: SwapsArms: expected actions to be restored by the"),
        ((foreign.Squares(),), "t: Squares: expected actions to be restored by the"),
        ((foreign.WrongScale(),), "t: WrongScale: expected actions to be restored by the"),
        ((foreign.HalfRelative(),), "t: HalfRelative: expected actions to be restored by the"),
        ((foreign.StepByStep(),), "t: StepByStep: expected actions to be restored by the"),
        ((foreign.ScalesByZero(),), "t: ScalesByZero: expected actions to be restored by the"),
        ((foreign.FirstRowOnly(),), "t: FirstRowOnly: expected the same states whether it gets"),
        (
            (replace(ACTIONS_ALONE, states_too=False), RELATIVE),
            "t: RelativeActions.mask: after Affine expected 6 entries with False at 2 (where it",
        ),
        ((foreign.ClipStates(reach=1.0), RELATIVE), "RelativeActions.mask: after ClipStates exp"),
        ((foreign.ClipStatesQuietly(), RELATIVE), "RelativeActions.mask: after ClipStatesQuietly"),
        ((SAME, RelativeActions(mask=(True,) * 7)), "after Affine expected 6 entries (where its"),
        (
            (foreign.ToState(dims_made_relative=(True, *(False,) * 5)), RELATIVE),
            "t: RelativeActions.mask: after ToState expected 6 entries with False at 0 (where",
        ),
        ((NormalizeStatesAndActions(), SAME), "expected Affine before NormalizeStatesAndActions"),
    ],
)
def test_what_the_robot_could_not_undo_is_refused_by_name(
    transforms: Sequence[Transform], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        Pipeline(tuple(transforms), where="t").check()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "transforms",
    [
        (SAME, RELATIVE, NormalizeStatesAndActions()),
        (RELATIVE, replace(ACTIONS_ALONE, states_too=False)),
        (foreign.ClipStates(reach=1.0), NormalizeStatesAndActions()),
        (RELATIVE, foreign.ClipStatesQuietly()),
        (replace(ACTIONS_ALONE, states_too=False), RelativeActions(mask=(True, True, False) * 2)),
        (
            foreign.ToState(dims_made_relative=(True, *(False,) * 5)),
            RelativeActions(mask=(False, *(True,) * 5)),
        ),
        (foreign.FlipImages(), foreign.Noted(), AugmentImages(), *OBSERVATION),
        (PadKeyToDim(keys=("states", "actions"), dim=6), RELATIVE),
        (NormalizeStatesAndActions(action_dim=3, state_dim=4),),
        (NormalizeImages(means=((0.0,) * 3,) * 5, stds=((1.0,) * 3,) * 5),),
    ],
)
def test_what_the_robot_can_undo_is_accepted(transforms: tuple[Transform, ...]) -> None:
    Pipeline(transforms).check()


def test_the_same_state_is_observed_whatever_noise_training_adds() -> None:
    class Noise(foreign.ClipStatesQuietly):
        training_only = True

    Pipeline((Noise(), RELATIVE)).check()


def test_what_can_only_be_tried_with_real_data_is_tried_with_a_sample() -> None:
    quiet, loud = (
        Pipeline((step, *OBSERVATION), where="t")
        for step in (foreign.FlipImages(), foreign.HalvesActionsOfLargeImages())
    )
    for pipeline in (quiet, loud):
        pipeline.check()
    assert loud.needs_sample and not quiet.needs_sample
    sample = {**observation(), "actions": np.ones((5, 14), np.float32)}
    sample["images"] = np.zeros((2, 48, 64, 3), np.uint8)
    quiet.check_sample(sample, sample["stats"])
    with pytest.raises(ConfigError, match="t: all together: expected actions to be restored by"):
        loud.check_sample(sample, sample["stats"])
    raw = replace(quiet, transforms=(foreign.FlipImages(), RelativeActions(mask=MASK)))
    raw.check_sample(sample, {})


# Steps by class or role.


def test_steps_are_found_by_role_and_replaced_in_a_copy() -> None:
    pipeline = Pipeline((*OBSERVATION, AugmentImages()), where="t")
    assert pipeline.one(Tokenization) is OBSERVATION[2]
    assert pipeline.maybe(ImageResize) is OBSERVATION[3]
    assert pipeline.maybe(UnitStep) is None
    with pytest.raises(ConfigError, match="t: expected one AlohaToPi, got 0"):
        pipeline.one(AlohaToPi)
    twice = Pipeline((TaskPrompter(), TaskPrompter()), where="t")
    with pytest.raises(ConfigError, match="t: expected one TaskPrompter, got 2"):
        twice.one(Prompter)
    with pytest.raises(ConfigError, match="expected one SimpleNormalizeImages or NormalizeImages"):
        twice.one(ImageNormalization)
    assert pipeline.without(Augmentation).transforms == OBSERVATION
    shorter = pipeline.replace(Tokenization, max_len=7)
    assert shorter.one(Tokenization).max_len == 7 and shorter.where == "t"
    assert pipeline.one(Tokenization).max_len == 300
    assert pipeline.statistic_names == ("proprio", "action")
    named = pipeline.replace(Normalization, state_key="s", action_key="a")
    assert named.statistic_names == ("s", "a")


def test_fewer_cameras_keep_their_own_ranges() -> None:
    norm = NormalizeImages(means=tuple((float(i),) * 3 for i in range(3)), stds=((1.0,) * 3,) * 3)
    pipeline = Pipeline((ResizeImages(height=8, width=8), norm))
    found = pipeline.with_cameras(("right", "high"), ("high", "left", "right"))
    assert found.one(NormalizeImages).means == ((0.0,) * 3, (2.0,) * 3)
    assert found.one(NormalizeImages).stds == ((1.0,) * 3,) * 2
    assert found.transforms[0] is pipeline.transforms[0]


# Encoding an observation or a prompt.


def test_the_robot_skips_what_the_graph_does_and_uses_the_given_tokenizer() -> None:
    missing = ProcessPrompts(tokenizer=PretrainedTokenizer(), max_len=300)
    pipeline = Pipeline((*OBSERVATION[:2], missing, *OBSERVATION[3:]))
    encoded = pipeline.encode(observation(), WORDS.load())
    trained = Pipeline(OBSERVATION)(observation())
    assert encoded["images"].dtype == np.uint8 and encoded["images"].shape == (2, 8, 8, 3)
    assert trained["images"].dtype == np.float32
    for key in ("states", "lang_tokens", "lang_masks"):
        np.testing.assert_array_equal(encoded[key], trained[key])


def test_a_prompt_is_written_without_the_rest() -> None:
    pipeline = Pipeline(OBSERVATION)
    sample = {"task_description": "fold", "states": np.zeros(2, np.float32), "num_state_dims": 2}
    assert pipeline.prompt(sample)["prompt"] == "Task: fold, State: 128 128;\nAction: "
    assert pipeline.prompt_uses_state
    plain = Pipeline((TaskPrompter(),))
    assert plain.prompt({"task_description": "fold"})["prompt"] == "fold\n"
    assert not plain.prompt_uses_state
    with pytest.raises(ConfigError, match="expected one TaskPrompter, got 0"):
        Pipeline(()).prompt(sample)


def test_frames_are_resized_while_decoding_unless_a_transform_needs_them_as_recorded() -> None:
    resize = ResizeImages(height=8, width=8)
    assert Pipeline((AugmentImages(), AlohaToPi(), resize)).resize_at_decode is resize
    assert Pipeline(OBSERVATION).resize_at_decode is OBSERVATION[3]
    assert Pipeline((foreign.FlipImages(), resize)).resize_at_decode is None
    assert Pipeline((resize, foreign.FlipImages())).resize_at_decode is resize
    assert Pipeline(()).resize_at_decode is None


# Comparing training with the robot.


def differences(trained: Sequence[Transform], deployed: Sequence[Transform]) -> list[str]:
    sides = [Pipeline(tuple(side)).for_robot(2, 7) for side in (trained, deployed)]
    return [str(difference) for difference in sides[0].difference(sides[1])]


def test_what_only_training_can_have_is_not_compared() -> None:
    row = (0.0,) * 3
    trained = (
        RelativeActions(mask=MASK),
        PadKeyToDim(keys=("states", "actions"), dim=32),
        NormalizeStatesAndActions(norm_type="quantile", action_dim=32, state_key="s"),
        ProcessPrompts(tokenizer=PretrainedTokenizer(model_path="/there"), max_len=48),
        AugmentImages(),
        NormalizeImages(means=(row,) * 3, stds=((1.0,) * 3,) * 3),
    )
    deployed = (
        NormalizeImages(means=(row,) * 2, stds=((1.0,) * 3,) * 2),
        RelativeActions(mask=MASK[:7]),
        NormalizeStatesAndActions(norm_type="quantile"),
        ProcessPrompts(tokenizer=PretrainedTokenizer(model_path="/here"), max_len=48),
    )
    assert differences(trained, deployed) == []


@pytest.mark.parametrize(
    ("trained", "deployed", "messages"),
    [
        (
            [ResizeImages(height=8, width=8)],
            [ResizeImages(height=8, width=6)],
            ["ResizeImages differs from training in width: expected 8, got 6"],
        ),
        (
            [ResizeImages(height=8, width=8)],
            [ResizeImagesWithPad(height=8, width=8)],
            [
                "ResizeImages differs from training: expected [ResizeImages(height=8, width=8)], "
                "got []",
                "ResizeImagesWithPad differs from training: expected [], "
                "got [ResizeImagesWithPad(height=8, width=8)]",
            ],
        ),
        (
            [NormalizeStatesAndActions(norm_type="quantile")],
            [NormalizeStatesAndActions()],
            [
                "NormalizeStatesAndActions differs from training in norm_type: expected "
                "'quantile', got 'mean_std'"
            ],
        ),
        (
            [TaskPrompter()],
            [TaskPrompter(add_new_line=False, use_conversation=True)],
            [
                "the prompt differs from training in use_conversation: expected False, got True",
                "the prompt differs from training in add_new_line: expected True, got False",
            ],
        ),
        (
            [TaskPrompter()],
            [PreparePromptWithState()],
            [
                "the prompt differs from training: expected [TaskPrompter(use_conversation=False, "
                "add_new_line=True)], got [PreparePromptWithState()]"
            ],
        ),
        (
            [foreign.Noted(note="a"), foreign.FlipImages()],
            [foreign.Noted(note="b")],
            [
                "Noted differs from training in note: expected 'a', got 'b'",
                "FlipImages differs from training: expected [FlipImages()], got []",
            ],
        ),
        (
            [foreign.ClipStates(reach=1.0), SAME],
            [SAME, foreign.ClipStates(reach=1.0)],
            [
                "the order of unit steps differs from training: expected ['ClipStates', 'Affine'], "
                "got ['Affine', 'ClipStates']"
            ],
        ),
    ],
)
def test_a_difference_names_the_field_and_both_values(
    trained: list[Transform], deployed: list[Transform], messages: list[str]
) -> None:
    assert differences(trained, deployed) == messages


# Checks.


def test_a_transform_that_does_not_fit_the_network_is_refused() -> None:
    inputs = ModelInputs(image_size=(8, 8), action_dim=32)
    Pipeline((*OBSERVATION, foreign.Noted())).check_model(inputs)
    for transforms, message in (
        (
            (ResizeImagesWithPad(height=9, width=8),),
            r"t.0: ResizeImagesWithPad gives \(9, 8\), ",
        ),
        (
            (NormalizeStatesAndActions(action_dim=16),),
            "t.0: NormalizeStatesAndActions pads ",
        ),
        ((), "t: expected SimpleNormalizeImages or NormalizeImages, got neither"),
    ):
        with pytest.raises(ConfigError, match=message):
            Pipeline(transforms, where="t").check_model(inputs)


def test_pixels_outside_siglips_range_give_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    inputs = ModelInputs(image_size=(8, 8), action_dim=32, pixel_range=(-1.0, 1.0))
    half, wide = (
        NormalizeImages(means=((127.5,) * 3,), stds=((std,) * 3,)) for std in (127.5, 60.0)
    )
    Pipeline((half,)).check_model(inputs)
    Pipeline((SimpleNormalizeImages(),)).check_model(inputs)
    assert caplog.messages == []
    Pipeline((wide,), where="t").check_model(inputs)
    assert caplog.messages == [
        "t.0: NormalizeImages gives pixels outside [-1, 1], the range that SigLIP and openpi's "
        "checkpoints were trained on. Use SimpleNormalizeImages for that range"
    ]


def test_a_transform_for_another_robot_is_refused() -> None:
    Pipeline((AlohaToPi(), RelativeActions(mask=MASK))).check_robot(robot_spec("aloha"))
    with pytest.raises(ConfigError, match=r"t\.0: AlohaToPi expected a robot of 14 joints"):
        Pipeline((AlohaToPi(),), where="t").check_robot(robot_spec("ur3"))
    with pytest.raises(ConfigError, match="libero, whose commands are already differences"):
        Pipeline((RELATIVE,)).check_robot(robot_spec("libero"))


# A user's transforms in a config.


def named(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def tree(*transforms: dict[str, Any]) -> dict[str, Any]:
    return {"img_keys": ["cam_high"], "transforms": list(transforms)}


def test_a_users_transform_is_bound_by_its_path_and_round_trips() -> None:
    section = tree(
        {"type": named(foreign.Affine), "scale": [2.0] * 7, "offset": [0.0] * 7},
        {"type": "RelativeActions", "mask": [True] * 7},
        {"type": named(foreign.Noted), "note": "mine"},
    )
    bound = bind(ObservationTransforms, section, "inference.dataset")
    assert bound.transforms[0] == foreign.Affine(scale=(2.0,) * 7, offset=(0.0,) * 7)
    assert bound.transforms[2] == foreign.Noted(note="mine")
    assert bind(ObservationTransforms, unbind(bound), "inference.dataset") == bound


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"type": named(foreign.NotATransform)},
            f"d.transforms.0: expected Transform, got type '{named(foreign.NotATransform)}'",
        ),
        ({"type": "LinearProjector"}, "d.transforms.0: expected Transform, got type 'LinearProj"),
        ({"height": 3}, "d.transforms.0: expected Transform, got a dict without 'type'"),
        (
            {"type": named(foreign.HalvesActions)},
            "d.transforms: HalvesActions changes actions but does not declare how the robot undoes",
        ),
        (
            {"type": "AugmentImages"},
            "d.transforms.0: expected a transform for the robot, got AugmentImages, which runs in "
            "training only. Leave it out",
        ),
    ],
)
def test_a_transform_that_the_robot_cannot_use_is_refused_with_its_path(
    section: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        bind(ObservationTransforms, tree(section), "d")
    assert str(error.value).startswith(message)


def test_a_policy_with_user_defined_units_gives_c_plus_plus_one_scale_and_offset() -> None:
    degrees = foreign.Affine(scale=(np.pi / 180,) * 14, offset=(0.0,) * 14)
    relative = RelativeActions(mask=MASK)
    runner = AlohaInferenceRunner(
        task_descriptions={"1": "fold"},
        dataset=ObservationTransforms(
            img_keys=("cam_high",), transforms=(degrees, relative, *OBSERVATION)
        ),
        denormalize_action=DenormalizeActions(norm_type="quantile"),
    )
    stats = statistics(14)
    io = PolicyIO.from_policy(runner, {"aloha": stats})
    scale, offset = stats["action"].affine("quantile")
    np.testing.assert_allclose(io.scale, scale * np.pi / 180, rtol=1e-6)
    np.testing.assert_allclose(io.offset, offset * np.pi / 180, rtol=1e-6, atol=1e-9)
    assert io.relative_mask.tolist() == list(MASK)
    mean = np.asarray(stats["proprio"].mean) * np.pi / 180
    np.testing.assert_allclose(io.mean_state, mean, rtol=1e-6)
