"""A robot section that contradicts the training is refused before the first step, at any door."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flux_core.agreement import Changes
from flux_core.config import bind, unbind
from flux_core.deployment import InferenceRunner
from flux_core.errors import ConfigError, UsageError
from flux_core.robots import robot_spec
from flux_core.tokenizers import PretrainedTokenizer
from flux_core.transforms import PadKeyToDim, ResizeImages, Sample
from flux_data.lerobot.recorder import EpisodeRecorder, vector_feature, video_feature, video_key
from flux_data.lerobot.writer import WriterV21
from flux_data.samples import ParquetDataset
from flux_data.samples.process_inputs import ProcessParquetInputs
from flux_train import recipes
from flux_train.cli import main
from flux_train.config import TrainConfig, bind_train_config
from flux_train.distributed.ranks import Ranks
from flux_train.loading.train_data import TrainData

CAMERAS = ("cam_high", "cam_left_wrist", "cam_right_wrist")
HEIGHT, WIDTH, FRAMES, DIMS = 24, 32, 12, 14
THREE = recipes.SmallRobot(
    name="aloha-sim",
    runner="AlohaSimInferenceRunner",
    cameras=CAMERAS,
    image_size=(HEIGHT, WIDTH),
    tasks={"1": "transfer the cube"},
    prompt_length=128,
)
Tree = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class BrighterImages(ResizeImages):
    """As its base, and something more."""

    def __call__(self, sample: Sample) -> Sample:
        out = super().__call__(sample)
        return {**out, "images": np.minimum(out["images"], 200) + 50}


@dataclass(frozen=True, kw_only=True)
class ScalingPad(PadKeyToDim):
    """Pads, and scales the state, which the robot's own padding would not do."""

    def __call__(self, sample: Sample) -> Sample:
        out = super().__call__(sample)
        return {**out, "states": out["states"] * 2}


@dataclass(frozen=True, kw_only=True)
class SwappedCameras(ProcessParquetInputs):
    """Reads the cameras in another order than it says."""

    def __call__(self, sample: Sample) -> Sample:
        return super().__call__({**sample, "images": sample["images"][::-1]})


@dataclass(frozen=True, kw_only=True)
class OtherTokenizer(PretrainedTokenizer):
    """A tokenizer of the user's own."""


def tree(data: str = "data") -> Tree:
    model = recipes.small_pi05_model(action_horizon=8, width=16, depth=1, robot=THREE)
    model["vision_backbone"] |= {"hidden_size": 8, "stem_channels": 4}
    model["projector"]["in_dim"] = 8
    return {
        "model": model,
        "train_dataloader": recipes.small_data(
            THREE, data_root_path=data, action_horizon=8, batch_size=2, num_workers=0
        ),
        "runner": recipes.small_runner(max_steps=1, num_noise_samples=1),
        "inference": recipes.small_inference(THREE, execution_horizon=4),
    }


def trained(config: Tree) -> list[Tree]:
    return config["train_dataloader"]["dataset"]["datasets"]["transforms"]


def robots(config: Tree) -> list[Tree]:
    return config["inference"]["dataset"]["transforms"]


def edit(config: Tree, path: str, value: Any) -> Tree:
    *parents, last = path.split(".")
    node: Any = config
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node[part]
    node[int(last) if isinstance(node, list) else last] = value
    return config


IMG_KEYS = "inference.dataset.img_keys"
VIDEO_KEYS = "train_dataloader.dataset.datasets.transforms.0.video_keys"
COLUMNS = [video_key(camera) for camera in CAMERAS]
OWN = f"{__name__}:"


def of_class(place: int, name: str) -> Callable[[Tree], object]:
    return lambda config: trained(config)[place].update(type=OWN + name)


def added(step: Tree) -> Callable[[Tree], object]:
    return lambda config: trained(config).insert(1, step)


# What is changed, and what the refusal must name.
CONTRADICTIONS: dict[str, tuple[Callable[[Tree], object], list[str]]] = {
    "cameras in another order": (
        lambda c: edit(c, IMG_KEYS, [CAMERAS[0], CAMERAS[2], CAMERAS[1]]),
        [IMG_KEYS, VIDEO_KEYS, str(tuple(COLUMNS)), "'cam_right_wrist', 'cam_left_wrist'"],
    ),
    "fewer cameras on the robot": (
        lambda c: edit(c, IMG_KEYS, list(CAMERAS[:2])),
        [IMG_KEYS, VIDEO_KEYS, str(tuple(COLUMNS)), str(CAMERAS[:2]), "flux-export --cameras"],
    ),
    "more cameras on the robot": (
        lambda c: edit(c, VIDEO_KEYS, COLUMNS[:2]),
        [IMG_KEYS, VIDEO_KEYS, str(tuple(COLUMNS[:2])), str(CAMERAS)],
    ),
    "a padded camera that the robot has": (
        lambda c: trained(c)[0].update(video_keys=COLUMNS[:2], num_padding_imgs=1),
        [IMG_KEYS, str(tuple(COLUMNS[:2])), str(CAMERAS)],
    ),
    "another camera of the robot": (
        lambda c: (
            edit(c, VIDEO_KEYS, [COLUMNS[1]]),
            edit(c, IMG_KEYS, [CAMERAS[0]]),
        ),
        [IMG_KEYS, VIDEO_KEYS, "cam_left_wrist", "cam_high"],
    ),
    "no camera on the robot": (lambda c: edit(c, IMG_KEYS, []), [IMG_KEYS, "got ()"]),
    "no camera in training": (lambda c: edit(c, VIDEO_KEYS, []), [VIDEO_KEYS, "got none"]),
    "a camera twice on the robot": (
        lambda c: edit(c, IMG_KEYS, [CAMERAS[0], CAMERAS[0], CAMERAS[2]]),
        [IMG_KEYS, "'cam_high', 'cam_high'"],
    ),
    "a camera twice in training": (
        lambda c: edit(c, VIDEO_KEYS, [COLUMNS[0], COLUMNS[0], COLUMNS[2]]),
        [VIDEO_KEYS, f"got {COLUMNS[0]!r} twice"],
    ),
    "actions with the state's statistics": (
        lambda c: edit(c, "inference.denormalize_action.action_key", "proprio"),
        ["inference.denormalize_action.action_key", "transforms.1.action_key", "'action'", "prop"],
    ),
    "a state with the actions' statistics": (
        lambda c: edit(c, "inference.dataset.transforms.0.state_key", "action"),
        ["inference.dataset.transforms.0.state_key", "transforms.1.state_key", "'proprio'"],
    ),
    "commands as the state": (
        lambda c: (
            trained(c)[0].update(parquet_keys=["states", "actions"], name_mappings={}),
            c["train_dataloader"]["dataset"].update(statistic_keys=None),
            c["train_dataloader"]["dataset"]["datasets"].update(state_key="action"),
        ),
        ["train_dataloader.dataset.datasets.state_key", "'action', which holds commands"],
    ),
    "statistics of another column": (
        lambda c: edit(
            c,
            "train_dataloader.dataset.name_mappings",
            {"observation.state": ["action"], "action": ["proprio"]},
        ),
        ["train_dataloader.dataset.name_mappings", "observation.state", "action"],
    ),
    "another normalisation": (
        lambda c: edit(c, "inference.denormalize_action.norm_type", "min_max"),
        ["inference.denormalize_action.norm_type", "'quantile'", "'min_max'", "transforms.1"],
    ),
    "fewer actions than joints": (
        lambda c: edit(c, "inference.denormalize_action.action_dim", 7),
        ["inference.denormalize_action.action_dim", "14", "got 7. Leave it out"],
    ),
    "a network of fewer actions than joints": (
        lambda c: c["model"].update(
            max_action_dim=7,
            action_in_proj=dict(type="LinearProjector", in_dim=28, out_dim=16),
            action_out_proj=dict(type="LinearProjector", in_dim=16, out_dim=28),
        ),
        ["inference.robot: joints of aloha-sim", "expected 7", "got 14"],
    ),
    "a subclass of the resize": (
        of_class(4, "BrighterImages"),
        ["BrighterImages", "ResizeImages", "train_dataloader.dataset.datasets.transforms.4"],
    ),
    "a subclass of the padding": (
        added({"type": f"{OWN}ScalingPad", "keys": ["states", "actions"], "dim": DIMS}),
        ["ScalingPad differs from training", "got []"],
    ),
    "a tokenizer of the training side only": (
        lambda c: (
            trained(c)[3].update(tokenizer={"type": f"{OWN}OtherTokenizer", "model_path": "x"}),
            robots(c)[2].update(tokenizer={"type": "PretrainedTokenizer"}),
        ),
        ["tokenizer", "OtherTokenizer", "PretrainedTokenizer"],
    ),
    "relative actions in training only": (
        added({"type": "RelativeActions", "mask": [True] * DIMS}),
        ["RelativeActions differs from training", "got []"],
    ),
    "more steps than a chunk has": (
        lambda c: edit(c, "inference.execution_horizon", 9),
        ["inference.execution_horizon", "1 to 8", "got 9"],
    ),
    "a delay that was never trained": (
        lambda c: edit(c, "inference.rtc_config", {"prefix_len": 3}),
        ["inference.rtc_config.prefix_len", "(0,)", "got 3", "model.rtc_training_config"],
    ),
    "no step from noise to actions": (
        lambda c: edit(c, "model.num_inference_steps", 0),
        ["model.num_inference_steps", "at least 1", "got 0"],
    ),
    "another prompt": (
        lambda c: robots(c).__setitem__(1, {"type": "TaskPrompter"}),
        ["the prompt differs from training", "PreparePromptWithState", "TaskPrompter"],
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_contradiction_is_refused_with_its_paths_and_both_values(case: str) -> None:
    change, parts = CONTRADICTIONS[case]
    bind_train_config(tree())
    config = tree()
    change(config)
    with pytest.raises(ConfigError) as error:
        bind_train_config(config)
    told = str(error.value)
    assert all(part in told for part in parts), told
    assert "\n" not in told


def test_cameras_that_training_padded_are_not_missing() -> None:
    config = tree()
    trained(config)[0].update(video_keys=COLUMNS[:2], num_padding_imgs=1)
    config["inference"]["dataset"]["img_keys"] = list(CAMERAS[:2])
    bind_train_config(config)


def test_a_robot_may_say_that_it_lacks_cameras() -> None:
    config = tree()
    config["inference"]["dataset"] |= {
        "img_keys": [CAMERAS[0], CAMERAS[2]],
        "trained_cameras": list(CAMERAS),
    }
    bind_train_config(config)


def test_columns_with_names_of_their_own_are_matched_by_position() -> None:
    config = edit(tree(), VIDEO_KEYS, ["front", "one_arm", "other_arm"])
    bind_train_config(config)


def test_more_dimensions_than_the_network_has_are_a_warning_with_both_numbers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = edit(tree(), "inference.denormalize_action.action_dim", 16)
    bind_train_config(config)
    assert "inference.denormalize_action.action_dim is 16 beside a model of 14" in caplog.text


def test_the_statistics_of_another_robot_are_refused() -> None:
    data = recipes.robot_data(
        "pi0", aloha=["a"], ur3=["b"], tokenizer_path="tokenizer", actions="recorded"
    )
    inference: Any = recipes.robot_inference("pi0", aloha={"1": "x"}, ur3={"1": "x"})
    inference["aloha"]["statistic_name"] = "ur3"
    sections = {"model": recipes.pi0_model(action_horizon=32, action_dim=DIMS)}
    sections |= {"runner": recipes.full_runner(max_epochs=1), "train_dataloader": data}
    with pytest.raises(ConfigError) as error:
        bind_train_config({**sections, "inference": inference})
    assert "inference.aloha.statistic_name: expected 'aloha' as in training" in str(error.value)
    assert "got 'ur3'" in str(error.value)


# With the data.


def write_data(root: Path, *, fps: float = 50.0, dims: int = DIMS, task: str = "stack") -> Path:
    features = {
        "observation.state": vector_feature(tuple(f"s{i}" for i in range(dims))),
        "action": vector_feature(tuple(f"a{i}" for i in range(dims))),
        **{column: video_feature(HEIGHT, WIDTH, fps) for column in COLUMNS},
    }
    random = np.random.default_rng(0)
    with (
        WriterV21(root, fps=fps, robot_type="aloha-sim", features=features) as writer,
        EpisodeRecorder(writer.staging("0"), fps, features) as recorder,
    ):
        for _ in range(FRAMES):
            images = {
                column: np.full((HEIGHT, WIDTH, 3), 40 * (place + 1), np.uint8)
                for place, column in enumerate(COLUMNS)
            }
            numbers = {key: random.uniform(-1, 1, dims).astype(np.float32) for key in features}
            recorder.add({key: images.get(key, numbers[key]) for key in features})
        writer.add(recorder.close(task))
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "set")


def dry_run(config: Tree, folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    code = main([str(path), str(folder / "run"), "--dry-run"])
    return code, capsys.readouterr().err


def test_a_dataset_of_another_rate_is_refused_unless_that_is_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    slow = write_data(tmp_path / "slow", fps=25.0)
    code, told = dry_run(tree(str(slow)), tmp_path, capsys)
    assert code == 1
    assert "inference.robot.control_hz: expected 25" in told and "got 50" in told
    assert "allow_rate_change=true" in told
    config = edit(tree(str(slow)), "inference.allow_rate_change", True)
    code, told = dry_run(config, tmp_path, capsys)
    assert code == 0, told
    assert "movements are 2 times as fast as recorded" in caplog.text


def test_liberos_recordings_may_state_the_rate_of_openpis_converter() -> None:
    from flux_core.agreement import DataFacts, Network, Trained, check_data_agreement

    section = recipes.libero_inference("pi05", suite="libero_10")
    inference = bind(InferenceRunner, section, "inference")
    network = Network(action_dim=7, action_horizon=10, reads_state=False)

    def check(fps: float) -> None:
        facts = {"libero": DataFacts(fps=fps, state_dim=8, action_dim=7)}
        check_data_agreement(inference, Trained(network=network, groups={}, facts=facts))

    for fps in (20.0, 20.1, 10.0):
        check(fps)
    with pytest.raises(ConfigError, match="expected 15, the fps of training .* got 20"):
        check(15.0)


def test_joints_in_another_order_than_the_recordings_are_refused() -> None:
    from flux_core.agreement import DataFacts, Network, Trained, check_data_agreement

    inference = bind(
        InferenceRunner, recipes.small_aloha_sim_inference(execution_horizon=4), "inference"
    )
    joints = inference.spec.joint_names
    network = Network(action_dim=14, action_horizon=8, reads_state=False)

    def check(states: tuple[str, ...], actions: tuple[str, ...]) -> None:
        facts = DataFacts(
            fps=50.0, state_dim=14, action_dim=14, state_names=states, action_names=actions
        )
        read = DataFacts.from_data(facts.as_data(), "data")
        assert read == facts
        check_data_agreement(inference, Trained(network=network, groups={}, robot_facts=read))

    swapped = (*joints[7:], *joints[:7])
    for states, actions in ((joints, swapped), (swapped, joints)):
        with pytest.raises(ConfigError) as error:
            check(states, actions)
        assert str(error.value).startswith(
            "inference.robot.joint_names.0: expected 'right_waist' as in training"
        )
        assert "got 'left_waist'" in str(error.value)
    check(joints, joints)
    check((), ())
    others = tuple(f"motor_{place}" for place in range(14))
    check(others, others)  # names that do not tell
    check(joints, ("left_waist",) * 14)


def test_a_dataset_of_another_robot_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = dry_run(tree(str(write_data(tmp_path / "d", dims=7))), tmp_path, capsys)
    assert code == 1
    assert "dimensions of the state of aloha-sim: expected 7 as in training" in told


def test_tasks_that_training_never_saw_are_one_warning_with_the_nearest_one(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = edit(tree(str(data)), "inference.task_descriptions", {"1": "stack", "2": "Stack it"})
    code, told = dry_run(config, tmp_path, capsys)
    assert code == 0, told
    lines = [line for line in caplog.messages if "task_descriptions" in line]
    assert lines == [
        "inference.task_descriptions: not among the 1 tasks of training: 'Stack it' (nearest: "
        "'stack')"
    ]


def test_a_reader_of_ones_own_that_does_more_than_read_is_refused_with_a_sample(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tree(str(data))
    trained(config)[0]["type"] = f"{OWN}SwappedCameras"
    code, told = dry_run(config, tmp_path, capsys)
    assert code == 1
    assert "transforms.0: SwappedCameras: expected images as recorded, got others" in told


class DoublingDataset(ParquetDataset):
    """Does more than its transforms."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ParquetDataset.Config):
        """As its base."""

        def build(self, *settings: Any) -> ParquetDataset:
            return DoublingDataset(self, *settings)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        made = super().sample(index, rng)
        return {**made, "states": made["states"] * 2}


def test_a_dataset_of_ones_own_that_does_more_than_its_transforms_is_refused(data: Path) -> None:
    config = tree(str(data))
    config["train_dataloader"]["dataset"]["datasets"]["type"] = f"{OWN}DoublingDataset"
    bound = bind_train_config(config)
    with pytest.raises(ConfigError, match="DoublingDataset: expected states as its transforms"):
        TrainData(bound, Ranks(device=torch.device("cpu")))


# What may change after training.


def runner(**settings: Any) -> InferenceRunner:
    section: Any = recipes.robot_inference("pi0", aloha={"1": "fold"})
    return bind(InferenceRunner, section | settings, "inference")


def test_changes_after_training_apply_to_the_section_and_are_recorded() -> None:
    changes = Changes(
        execution_horizon=4,
        action_chunk=8,
        tasks={"a": "fold the towel"},
        topics={"img_front_topic": "/front"},
        rtc={"method": "guidance", "prefix_len": 2},
    )
    changed: Any = changes.apply(runner())
    assert (changed.execution_horizon, changed.action_chunk) == (4, 8)
    assert dict(changed.task_descriptions) == {"a": "fold the towel"}
    assert changed.operator.img_front_topic == "/front"
    assert changed.operator.img_left_topic == "/camera_l/color/image_raw"
    assert (changed.rtc_config.method, changed.rtc_config.prefix_len) == ("guidance", 2)
    assert bind(InferenceRunner, unbind(changed), "inference") == changed
    assert list(changes.as_data()) == [
        *("execution_horizon", "action_chunk", "task_descriptions", "operator", "rtc_config")
    ]
    assert not Changes() and Changes().apply(changed) is changed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (Changes(topics={"img_frnt_topic": "/x"}), "Did you mean 'img_front_topic'"),
        (Changes(topics={"use_robot_base": 3}), "--topic: operator.use_robot_base: expected bool"),
        (Changes(rtc={"method": "none"}), "--rtc: rtc_config.method: expected 'prefix' or 'guid"),
        (Changes(rtc={"prefix_len": -1}), "--rtc: rtc_config.prefix_len: expected 0 or more"),
    ],
)
def test_a_wrong_change_is_refused_by_its_option(changes: Changes, message: str) -> None:
    with pytest.raises(UsageError) as error:
        changes.apply(runner())
    assert message in str(error.value)


def test_the_options_between_two_sections_turn_one_into_the_other() -> None:
    before = runner(execution_horizon=16)
    after: Any = replace(
        before,
        execution_horizon=None,
        action_chunk=20,
        task_descriptions={"1": "open the drawer"},
        operator=replace(before.operator, img_front_topic="/f"),  # type: ignore[attr-defined]
    )
    changes = Changes.between(after, before, 32)
    assert changes.as_options() == [
        *("--execution-horizon", "20", "--action-chunk", "20"),
        *("--tasks", "1=open the drawer", "--topic", "img_front_topic=/f"),
    ]
    changed = changes.apply(before)
    assert changed.steps_executed(32) == after.steps_executed(32) == 20
    assert not Changes.between(before, before, 32)
    assert robot_spec("aloha").name == changed.spec.name
    assert bind(TrainConfig, tree()).inference is not None
