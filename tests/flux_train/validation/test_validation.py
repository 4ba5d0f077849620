"""Held-out validation: the loss, the conversion to robot units, and no effect on training."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from flux_core.config import bind
from flux_core.deployment import InferenceRunner
from flux_core.errors import ConfigError, DataError
from flux_core.models import draw_flow, flow_errors, flow_mask
from flux_core.models.pi import PI0FlowMatching
from flux_core.policy_io import PolicyIO
from flux_core.robots import robot_spec
from flux_core.rtc import RTCTrainingConfig
from flux_data.lerobot.recorder import EpisodeRecorder, robot_features, video_key
from flux_data.lerobot.writer import WriterV21
from flux_data.samples.collate import DictCollator
from flux_data.samples.mixture import DistributedRepeatingDataset
from flux_data.samples.windows import ParquetDataset
from flux_train.validation import validator as validation
from flux_train.validation.held_out import plain
from flux_train.validation.predictions import load_predictions, prediction_files, save_predictions
from flux_train.validation.validator import Validation, Validator, check_validation

HORIZON, ACTION_DIM = 8, 16
KEYS = ("images", "image_masks", "lang_tokens", "lang_masks", "states", "actions", "action_masks")
COLLATOR = DictCollator(keys=(*KEYS, "action_dim_masks"), meta_keys=("prompt",))
CPU = torch.device("cpu")
MASK = [*[True] * 6, False] * 2


def units(group: str) -> list[dict[str, Any]]:
    """The transforms before the normalisation: ALOHA in pi's units, UR3 unchanged."""
    if group == "ur3":
        return [dict(type="RelativeActions", mask=[*[True] * 6, False])]
    return [dict(type="AlohaToPi"), dict(type="RelativeActions", mask=MASK)]


def dataset_tree(root: Path, group: str, *, augment: bool = False) -> dict[str, Any]:
    cameras = robot_spec(group).cameras[:1]
    tokenizer = dict(type="ByteTokenizer", words=[])
    transforms = [
        dict(
            type="ProcessParquetInputs",
            parquet_keys=["observation.state", "actions"],
            video_keys=[f"observation.images.{camera}" for camera in cameras],
        ),
        *units(group),
        dict(type="PadKeyToDim", keys=["states", "actions"], dim=ACTION_DIM),
        dict(type="NormalizeStatesAndActions", norm_type="quantile"),
        dict(type="TaskPrompter"),
        dict(type="ProcessPrompts", tokenizer=tokenizer, max_len=24),
        *([dict(type="AugmentImages")] if augment else []),
        dict(type="ResizeImages", height=32, width=32),
        dict(type="SimpleNormalizeImages"),
    ]
    return dict(
        type="ParquetDataset",
        data_root_path=str(root),
        transforms=transforms,
        action_window_size=HORIZON,
        action_key="action",
        window_start_idx=1,
    )


def mixture(roots: dict[str, Path], **more: Any) -> DistributedRepeatingDataset.Config:
    tree = dict(
        type="DistributedRepeatingDataset",
        statistic_keys=["observation.state", "action"],
        name_mappings={"observation.state": ["proprio"], "action": ["action"]},
        dim=ACTION_DIM,
        datasets={group: [dataset_tree(root, group, **more)] for group, root in roots.items()},
    )
    return bind(DistributedRepeatingDataset.Config, tree)


def record(root: Path, group: str, seed: int, lengths: tuple[int, ...]) -> Path:
    """Records random states and actions, and one camera whose frames grow brighter."""
    spec, random = robot_spec(group), np.random.default_rng(seed)
    spec = replace(spec, cameras=spec.cameras[:1])
    features = robot_features(spec, 48, 64)
    with WriterV21(root, fps=10.0, robot_type=group, features=features) as writer:
        for episode, length in enumerate(lengths):
            with EpisodeRecorder(writer.staging(str(episode)), 10.0, features) as recorder:
                for frame in range(length):
                    values = random.normal(0.4, 0.2 + seed, (2, spec.action_dim))
                    state, action = np.clip(values, 0.0, 1.0).astype(np.float32)
                    image = np.full((48, 64, 3), 8 * frame, np.uint8)
                    cameras = {video_key(spec.cameras[0]): image}
                    recorder.add({"observation.state": state, "action": action, **cameras})
                writer.add(recorder.close("pour"))
    return root


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """Datasets of two robots to train on, and others that are held out."""
    folder = tmp_path_factory.mktemp("data")
    return {
        part: {
            group: record(folder / part / group, group, seed, lengths)
            for group, lengths in (("aloha", (14, 11)), ("ur3", (20,)))
        }
        for part, seed in (("trained", 0), ("held_out", 1))
    }


@pytest.fixture(scope="module")
def trained(roots: dict[str, dict[str, Path]]) -> DistributedRepeatingDataset:
    return mixture(roots["trained"]).build()


@pytest.fixture(scope="module")
def model() -> PI0FlowMatching:
    """A tiny pi0 with weights that let every input affect the output."""
    width = 16
    gemma = dict(type="ConditionGemmaModel", hidden_size=width, intermediate_size=16, head_dim=8)
    gemma |= dict(num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
    linear = dict(type="LinearProjector", in_dim=ACTION_DIM, out_dim=width)
    tree = dict(
        type="PI0FlowMatching",
        vision_backbone=dict(
            type="ConvBackbone", image_height=32, image_width=32, hidden_size=8, stem_channels=4
        ),
        projector=dict(type="LinearProjector", in_dim=8, out_dim=width),
        llm_backbone=dict(gemma, vocab_size=300),
        llm_expert=gemma,
        proj_width=width,
        n_action_steps=HORIZON,
        state_proj=linear,
        action_in_proj=linear,
        action_out_proj=dict(type="LinearProjector", in_dim=width, out_dim=ACTION_DIM),
        max_action_dim=ACTION_DIM,
    )
    model = bind(PI0FlowMatching.Config, tree).build()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def held_out(roots: dict[str, dict[str, Path]], **more: Any) -> Validation:
    settings = dict(num_batches=3, num_action_samples=5) | more
    return Validation(dataset=mixture(roots["held_out"]), **settings)


def validator(
    config: Validation, trained: DistributedRepeatingDataset, work_dir: Path
) -> Validator:
    return Validator(config, trained.stats, COLLATOR, CPU, batch_size=8, work_dir=work_dir)


@pytest.fixture(scope="module")
def result(
    roots: dict[str, dict[str, Path]],
    trained: DistributedRepeatingDataset,
    model: PI0FlowMatching,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, Any], Path]:
    """The result of a validation, and the directory it wrote to."""
    work_dir = tmp_path_factory.mktemp("run")
    return validator(held_out(roots), trained, work_dir).run(model, 500), work_dir


def test_the_answer_has_every_robot_in_its_own_dimensions(
    result: tuple[dict[str, Any], Path],
) -> None:
    values = json.loads(json.dumps(result[0], allow_nan=False))
    dims = {"aloha": 14, "ur3": 7}
    assert {k: len(v) for k, v in values["loss_by_dimension"].items()} == dims
    for group, dim in dims.items():
        mean = np.mean(values["loss_by_dimension"][group])
        assert values["loss_by_robot"][group] == pytest.approx(mean)
        errors = values["action_error"][group]
        assert set(errors) == {"mean_abs", "first_step", "last_step"}
        assert all(len(each) == dim for each in errors.values())
    low, high = sorted(values["loss_by_robot"].values())
    assert low < values["loss"] < high


def test_the_loss_is_trainings_on_samples_in_trainings_units(
    roots: dict[str, dict[str, Path]],
    trained: DistributedRepeatingDataset,
    model: PI0FlowMatching,
    tmp_path: Path,
) -> None:
    """Against the whole held-out set in one batch, normalised with training's statistics."""
    config = held_out(roots, num_batches=1000)
    values = validator(config, trained, tmp_path).run(model, 1, write=False)
    whole = mixture(roots["held_out"]).build()
    assert whole.stats["ur3"]["action"] != trained.stats["ur3"]["action"]
    sums, counts = [], []
    for dataset, group in zip(whole.datasets, ("aloha", "ur3"), strict=True):
        dataset.stats = trained.stats[group]
        batch = COLLATOR([dataset[i] for i in range(len(dataset))])
        tensors = {k: torch.as_tensor(batch[k]) for k in COLLATOR.keys}
        generator = torch.Generator().manual_seed(0)
        draws = draw_flow(model.config, len(dataset), ACTION_DIM, generator=generator)
        with torch.no_grad():
            mask = flow_mask(model, tensors, draws)
            error = flow_errors(model, tensors, draws) * mask
        sums.append(error.sum().item())
        counts.append(mask.sum().item())
        assert values["loss_by_robot"][group] == pytest.approx(sums[-1] / counts[-1], rel=1e-5)
    assert values["loss"] == pytest.approx(sum(sums) / sum(counts), rel=1e-5)


def test_validation_is_the_same_each_time_and_leaves_training_alone(
    roots: dict[str, dict[str, Path]],
    trained: DistributedRepeatingDataset,
    model: PI0FlowMatching,
    result: tuple[dict[str, Any], Path],
    tmp_path: Path,
) -> None:
    model.train()
    model.vision_backbone.eval()  # a frozen part
    modes = [module.training for module in model.modules()]
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    again = validator(held_out(roots), trained, tmp_path).run(model, 500)
    assert again == result[0]
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()
    one, two = (load_predictions(prediction_files(d)[500]) for d in (tmp_path, result[1]))
    for ours, theirs in zip(one, two, strict=True):
        np.testing.assert_array_equal(ours.predicted, theirs.predicted)


def test_the_batch_size_changes_nothing_but_rounding(
    roots: dict[str, dict[str, Path]],
    trained: DistributedRepeatingDataset,
    model: PI0FlowMatching,
    tmp_path: Path,
) -> None:
    few = Validator(
        held_out(roots, num_batches=12),
        trained.stats,
        COLLATOR,
        CPU,
        batch_size=2,
        work_dir=tmp_path,
    ).run(model, 1)
    many = validator(held_out(roots), trained, tmp_path).run(model, 1)
    for name in ("loss_by_robot", "loss_by_dimension"):
        for group, value in many[name].items():
            np.testing.assert_allclose(few[name][group], value, rtol=1e-5)


def test_a_perfect_policy_has_no_error_in_robot_units(
    roots: dict[str, dict[str, Path]],
    trained: DistributedRepeatingDataset,
    model: PI0FlowMatching,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through AlohaToPi, relative actions, padding and normalisation, and back again."""
    config = replace(held_out(roots), dataset=replace(held_out(roots).dataset, shuffle=False))
    ours = validator(config, trained, tmp_path)
    answers: list[torch.Tensor] = []
    batches = ours._batches
    monkeypatch.setattr(
        ours,
        "_batches",
        lambda *a: (answers.append(b["actions"]) or (r, b) for r, b in batches(*a)),
    )
    monkeypatch.setattr(validation, "sample_actions", lambda *a, **k: answers[-1] + 0.0)
    errors = ours.run(model, 7)["action_error"]
    for group in errors.values():
        for values in group.values():
            assert max(value for value in values if value is not None) < 1e-5
    for prediction in load_predictions(tmp_path / "validation" / "step_7.npz"):
        real = prediction.masks
        np.testing.assert_allclose(prediction.predicted[real], prediction.recorded[real], atol=1e-5)


def test_errors_are_in_robot_units(
    roots: dict[str, dict[str, Path]],
    trained: DistributedRepeatingDataset,
    model: PI0FlowMatching,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Predicting the mean action leaves each recorded action's distance from it."""
    ours = validator(held_out(roots), trained, tmp_path)
    monkeypatch.setattr(
        validation, "sample_actions", lambda model, state, cache, noise, **k: 0.0 * noise
    )
    errors = ours.run(model, 7, write=False)["action_error"]["ur3"]
    assert not prediction_files(tmp_path)
    group, index = ours.groups[1], ours._of_actions["ur3"]
    _, offset = trained.stats["ur3"]["action"].affine("quantile")
    states, recorded, masks = group.recorded(index)
    guess = offset[:7] + np.where([*[True] * 6, False], states, 0.0)
    distance = np.abs(guess[:, None] - recorded)
    expected = [distance[..., d][masks].mean() for d in range(7)]
    np.testing.assert_allclose(errors["mean_abs"], expected, rtol=1e-5)
    np.testing.assert_allclose(errors["first_step"], distance[:, 0].mean(axis=0), rtol=1e-5)
    last = distance[:, -1][masks[:, -1]].mean(axis=0)
    np.testing.assert_allclose(errors["last_step"], last, rtol=1e-5)


def test_a_policy_with_trained_prefixes_is_also_judged_behind_the_longest_one(
    roots: dict[str, dict[str, Path]],
    trained: DistributedRepeatingDataset,
    model: PI0FlowMatching,
    result: tuple[dict[str, Any], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The prefix is the recorded actions; the error is that of the first step after it."""
    delay = 3
    config = replace(model.config, rtc_training_config=RTCTrainingConfig(max_delay=delay + 1))
    ours, chunks = validator(held_out(roots), trained, tmp_path), []
    predict = ours._predict

    def kept(*arguments: Any, **settings: Any) -> Any:
        chunks.append(predict(*arguments, **settings))
        return chunks[-1]

    monkeypatch.setattr(ours, "_predict", kept)
    monkeypatch.setattr(model, "config", config)
    errors = ours.run(model, 500, write=False)["action_error"]
    for number, group in enumerate(ours.groups):
        free, continued = chunks[2 * number : 2 * number + 2]
        _, recorded, masks = group.recorded(ours._of_actions[group.name])
        real = masks[:, :delay]
        np.testing.assert_allclose(continued[:, :delay][real], recorded[:, :delay][real], atol=1e-5)
        assert not np.allclose(continued[:, delay:], free[:, delay:])
        distance = np.abs(continued - recorded)[:, delay][masks[:, delay]].mean(axis=0)
        without = result[0]["action_error"][group.name]
        np.testing.assert_allclose(errors[group.name].pop("after_prefix"), distance, rtol=1e-5)
        assert errors[group.name] == without


def test_actions_come_back_as_on_the_robot(
    roots: dict[str, dict[str, Path]], trained: DistributedRepeatingDataset, tmp_path: Path
) -> None:
    tokenizer = dict(type="ByteTokenizer", words=[])
    inference = bind(
        InferenceRunner,
        dict(
            type="AlohaInferenceRunner",
            task_descriptions={"1": "pour"},
            dataset=dict(
                type="ObservationTransforms",
                img_keys=["cam_high"],
                transforms=[
                    *units("aloha"),
                    dict(type="PadKeyToDim", keys=["states"], dim=ACTION_DIM),
                    dict(type="NormalizeStatesAndActions", norm_type="quantile"),
                    dict(type="TaskPrompter"),
                    dict(type="ProcessPrompts", tokenizer=tokenizer, max_len=24),
                    dict(type="SimpleNormalizeImages"),
                ],
            ),
            denormalize_action=dict(type="DenormalizeActions", norm_type="quantile"),
        ),
    )
    robot = PolicyIO.from_policy(inference, trained.stats)
    group = validator(held_out(roots), trained, tmp_path).groups[0]
    random = np.random.default_rng(3)
    actions = random.normal(size=(4, HORIZON, ACTION_DIM)).astype(np.float32)
    states = random.uniform(0.0, 1.0, (4, 14)).astype(np.float32)
    expected = [robot.decode(a, s) for a, s in zip(actions, states, strict=True)]
    np.testing.assert_allclose(group.in_robot_units(actions, states), expected, atol=1e-5)


def test_it_runs_in_half_precision(
    roots: dict[str, dict[str, Path]],
    trained: DistributedRepeatingDataset,
    model: PI0FlowMatching,
    result: tuple[dict[str, Any], Path],
    tmp_path: Path,
) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        values = validator(held_out(roots), trained, tmp_path).run(model, 1)
    assert values["loss"] != result[0]["loss"]
    assert values["loss"] == pytest.approx(result[0]["loss"], rel=0.05)


def test_predictions_are_beside_the_frames_they_were_made_from(
    roots: dict[str, dict[str, Path]], result: tuple[dict[str, Any], Path]
) -> None:
    aloha, ur3 = load_predictions(result[1] / "validation" / "step_500.npz")
    assert (aloha.group, ur3.group) == ("aloha", "ur3")
    assert aloha.dimensions == robot_spec("aloha").joint_names
    assert ur3.cameras == ("cam_high",)
    assert (ur3.episode, ur3.fps, ur3.first_step) == (0, 10.0, 1)
    # The last frame's first action would be that of the frame after it.
    assert ur3.frames.tolist() == [0, 3, 5, 8, 10, 13, 15, 18]
    assert ur3.actions.shape == (20, 7)
    for place, frame in enumerate(ur3.frames):
        steps = ur3.actions[frame + 1 :][:HORIZON]
        np.testing.assert_array_equal(ur3.recorded[place][: len(steps)], steps)
        assert ur3.masks[place].sum() == len(steps)
        with Image.open(io.BytesIO(ur3.pictures[place][0])) as picture:
            assert picture.size == (64, 48)
            assert abs(np.asarray(picture).mean() - 8 * frame) < 4


def test_a_damaged_file_of_predictions_is_refused(
    result: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    path = tmp_path / "validation" / "step_3.npz"
    save_predictions(path, load_predictions(result[1] / "validation" / "step_500.npz"))
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"step_3.npz: cannot be read"):
        load_predictions(path)


# ---- What is refused


def changed(
    config: DistributedRepeatingDataset.Config, group: str, **changes: Any
) -> DistributedRepeatingDataset.Config:
    datasets = dict(config.groups())
    datasets[group] = tuple(replace(member, **changes) for member in datasets[group])
    return replace(config, datasets=datasets)


def test_held_out_data_prepared_differently_from_training_is_refused(
    roots: dict[str, dict[str, Path]], caplog: pytest.LogCaptureFixture
) -> None:
    training, ours = mixture(roots["trained"], augment=True), held_out(roots)
    check_validation(ours, training)  # augmentation is no difference
    (member, *_) = ours.dataset.groups()["ur3"]
    mixed = replace(ours, dataset=changed(ours.dataset, "ur3", pictures_of_other_tasks=0.5))
    check_validation(mixed, training)
    assert plain(mixed.dataset.groups()["ur3"][0]) == plain(member)
    assert not caplog.records
    for changes in (dict(window_start_idx=0), dict(action_window_size=4)):
        (name,) = changes
        other = replace(ours, dataset=changed(ours.dataset, "ur3", **changes))
        with pytest.raises(ConfigError, match=rf"validation.dataset.datasets.ur3.0.{name}: "):
            check_validation(other, training)
    check_validation(replace(ours, dataset=mixture(roots["trained"])), training)
    assert "is also in the training set" in caplog.text


def test_a_group_that_is_not_trained_is_refused(
    roots: dict[str, dict[str, Path]], trained: DistributedRepeatingDataset, tmp_path: Path
) -> None:
    ours = held_out(roots)
    (alone,) = mixture({"ur3": roots["held_out"]["ur3"]}).groups()["ur3"]
    assert isinstance(alone, ParquetDataset.Config)
    other = replace(ours, dataset=replace(ours.dataset, datasets={"franka": (alone,)}))
    with pytest.raises(
        ConfigError, match="datasets.franka: expected one of training's groups .*, got 'franka'"
    ):
        check_validation(other, trained.config)
    with pytest.raises(
        ConfigError, match=r"datasets.franka: expected a group with training statistics"
    ):
        validator(other, trained, tmp_path)


def test_invalid_settings_are_refused(roots: dict[str, dict[str, Path]]) -> None:
    with pytest.raises(ConfigError, match="num_batches: expected at least 1, got 0"):
        held_out(roots, num_batches=0)


def test_only_training_augments_images(
    roots: dict[str, dict[str, Path]], trained: DistributedRepeatingDataset, tmp_path: Path
) -> None:
    plain, augmented = (
        validator(
            replace(held_out(roots), dataset=mixture(roots["held_out"], augment=is_augmented)),
            trained,
            tmp_path,
        ).groups[0][3]["images"]
        for is_augmented in (False, True)
    )
    np.testing.assert_array_equal(plain, augmented)
