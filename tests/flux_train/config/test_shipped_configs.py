"""Every file under configs/ is described, has openpi's sizes and trains two steps when tiny."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flux_core.config import load_config, unbind
from flux_core.deployment import inference_sections
from flux_core.models import SigLIPViTBackbone, flow_matching_loss
from flux_core.models.gr00t.checkpoints import GR00T_CHECKPOINTS
from flux_core.models.gr00t.sizes import WORDS
from flux_core.models.pi import PI05FlowMatching
from flux_core.models.pi.checkpoints import our_names
from flux_core.models.weights.lora import apply_lora
from flux_core.policy_io import PolicyIO
from flux_core.robots import ROBOT_SPECS
from flux_core.transforms import Normalization, Tokenization
from flux_core.transforms.gr00t import IMAGE_TOKEN
from flux_core.types import Observation
from flux_data.lerobot.recorder import EpisodeRecorder, vector_feature, video_feature, video_key
from flux_data.lerobot.writer import WriterV21
from flux_data.samples.mixture import EpochBatches
from flux_data.samples.process_inputs import ProcessParquetInputs
from flux_train.cli import main
from flux_train.config.tree import TrainConfig, bind_train_config, read_train_config

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = sorted((ROOT / "configs").rglob("*.py"))
NAMES = [path.stem for path in CONFIGS]
FULL_SIZE = [path for path in CONFIGS if "small" not in path.stem]
PI = [path for path in FULL_SIZE if path.parent.name != "gr00t"]
GR00T = [path for path in FULL_SIZE if path.parent.name == "gr00t"]
MIXED = [path for path in CONFIGS if "aloha+ur" in path.stem]

each_config = pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
each_full_config = pytest.mark.parametrize("path", FULL_SIZE, ids=lambda path: path.stem)
each_pi_config = pytest.mark.parametrize("path", PI, ids=lambda path: path.stem)
each_gr00t_config = pytest.mark.parametrize("path", GR00T, ids=lambda path: path.stem)
each_mixed_config = pytest.mark.parametrize("path", MIXED, ids=lambda path: path.stem)

# robot -> dimensions of state and action, cameras, control rate: what its datasets have.
ROBOTS = {
    "aloha": (14, 14, ("cam_high", "cam_left_wrist", "cam_right_wrist"), 50.0),
    "ur3": (7, 7, ("cam_high", "cam_wrist"), 30.0),
    "libero": (8, 7, ("image", "wrist_image"), 20.0),
}
# The table of the tutorial: what a name says -> state, action, steps predicted, cameras.
DIMENSIONS = {
    "libero": (8, 7, 10, 2),
    "aloha+ur": (14, 14, 32, 3),
    "aloha_full": (14, 14, 32, 3),
    "ur3": (7, 7, 32, 2),
}
PI_HEAD = {"llm_expert", "action_in_proj", "action_out_proj"}
OPENPI_DIM = 32
HEIGHT, WIDTH, EPISODES, FRAMES = 48, 64, 2, 12


def test_every_config_of_the_tutorial_exists() -> None:
    pi0 = {
        "libero_10_full_train",
        "libero_10_full_finetune_pytorch",
        "libero_90_full_finetune",
        "libero_spatial_full_finetune",
        "libero_object_full_finetune",
        "libero_goal_full_finetune",
        "aloha_full_train",
        "ur3_full_train",
        "aloha+ur_full_train",
    }
    pi05 = {name.removesuffix("_pytorch") for name in pi0} | {"libero_10_lora_finetune"}
    wanted = {f"pi0/pi0_paligemma_{name}.py" for name in pi0}
    wanted |= {f"pi05/pi05_paligemma_{name}.py" for name in pi05}
    suites = [f"libero_{suite}" for suite in ("10", "goal", "object", "spatial")]
    wanted |= {f"gr00t/gr00t_eagle_3b_{n}_full_finetune.py" for n in (*suites, "aloha", "ur3")}
    wanted.add("gr00t/gr00t_eagle_3b_libero_10_lora_finetune.py")
    assert wanted <= {path.relative_to(ROOT / "configs").as_posix() for path in CONFIGS}


@each_config
def test_a_config_says_what_it_is_and_how_to_run_it(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert text is not None
    title, command = text.splitlines()[0], f"configs/{path.parent.name}/{path.name}"
    assert title.endswith(".")
    assert any(
        line.startswith((f"bash scripts/train.sh {command} ", f"flux-train {command} "))
        for line in text.splitlines()
    )
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40
    listed = (ROOT / "configs" / "README.md").read_text(encoding="utf-8")
    assert f"`{path.parent.name}/{path.name}`" in listed


@cache
def full_config(path: Path) -> TrainConfig:
    return read_train_config(path, [])[0]


def meta_model(config: TrainConfig) -> torch.nn.Module:
    with torch.device("meta"):
        return config.model.build()


@each_gr00t_config
def test_the_network_is_nvidias(path: Path, shared_data: Path) -> None:
    config = full_config(path)
    stored = json.loads((shared_data / "parity-gr00t" / "full_keys.json").read_text())["nvidia"]
    names, unknown = GR00T_CHECKPOINTS.our_names(list(stored), "nvidia")
    assert not unknown
    expected = {ours: list(stored[theirs]) for ours, theirs in names.items()}
    found = {name: list(value.shape) for name, value in meta_model(config).state_dict().items()}
    assert found == expected
    assert "GR00T-N1.5-3B" in str(config.model.pretrained_name_or_path)


@each_gr00t_config
def test_gr00ts_settings_are_those_of_fluxvlas_table(path: Path) -> None:
    config, is_libero = full_config(path), "libero" in path.stem
    _, action, horizon, cameras = dimensions(path)
    model, runner = config.model, config.runner
    assert (model.n_action_steps, model.action_dim) == (horizon, 32)
    assert (model.loss_action_dim, model.num_inference_steps) == (action, 4)
    ((dataset,),) = config.train_dataloader.dataset.groups().values()
    inputs = dataset.transforms[0]
    assert isinstance(inputs, ProcessParquetInputs)
    assert len(inputs.video_keys) == cameras
    assert inputs.embodiment_id == (0 if "aloha" in path.stem else 2)
    (prompts,) = dataset.pipeline.steps(Tokenization)
    assert prompts.max_len == 300 * cameras
    assert dataset.window_start_idx == (0 if is_libero else 1)
    (normalize,) = dataset.pipeline.steps(Normalization)
    assert (normalize.state_dim, normalize.action_dim) == (64, 32)
    assert normalize.norm_type == "mean_std"
    if model.use_lora:
        assert (model.lora_alpha, model.lora_dropout) == (16, 0.1)
    elif is_libero:
        assert (runner.learning_rate, runner.max_epochs, runner.warmup_ratio) == (1.5e-5, 18, 0.03)
        assert runner.lr_scheduler_type == "linear-warmup+cosine-decay"
    else:
        assert (runner.learning_rate, runner.max_epochs) == (2e-5, 6)
        assert runner.lr_scheduler_type == "constant"


@each_pi_config
def test_the_network_is_openpis_except_for_the_robots_dimensions(
    path: Path, shared_data: Path
) -> None:
    config = full_config(path)
    kind = "pi05" if isinstance(config.model, PI05FlowMatching.Config) else "pi0"
    assert path.parent.name == kind
    file = shared_data / "parity" / f"full_{kind}_keys_openpi.json"
    stored = json.loads(file.read_text())
    names, unknown = our_names(list(stored), "openpi")
    assert not unknown
    expected = {ours: list(stored[theirs][0]) for ours, theirs in names.items()}
    openpi_size = sum(math.prod(shape) for shape in expected.values())
    state, action, _, _ = dimensions(path)
    expected |= {
        "action_in_proj.projector.weight": [1024, action],
        "action_out_proj.projector.weight": [action, 1024],
        "action_out_proj.projector.bias": [action],
    }
    cut = (OPENPI_DIM - action) * (2 * 1024 + 1)
    if kind == "pi0":
        expected["state_proj.projector.weight"] = [1024, state]
        cut += (OPENPI_DIM - state) * 1024
    model = meta_model(config)
    found = {name: list(value.shape) for name, value in model.state_dict().items()}
    assert found == expected
    assert sum(value.numel() for value in model.state_dict().values()) == openpi_size - cut
    # Therefore openpi's weights fit once they are cut to the robot's dimensions.
    assert config.model.pretrained_adapt == "slice"
    assert config.model.pretrained_name_or_path is not None


def dimensions(path: Path) -> tuple[int, int, int, int]:
    return next(value for key, value in DIMENSIONS.items() if key in path.stem)


@each_pi_config
def test_dimensions_and_strategy_are_the_tutorials(path: Path) -> None:
    config, name = full_config(path), path.stem
    _, action, horizon, cameras = dimensions(path)
    model = config.model
    assert (model.action_dim, model.n_action_steps) == (action, horizon)
    assert model.max_action_dim == (None if "libero" in name else action)
    assert model.loss_action_dim is None, "every dimension of the action is trained"
    assert model.freeze_vlm_backbone is ("libero" not in name)
    assert model.use_lora is ("lora" in name)
    for group in config.train_dataloader.dataset.groups().values():
        inputs = group[0].transforms[0]
        assert len(inputs.video_keys) + inputs.num_padding_imgs == cameras  # type: ignore[union-attr]
    assert {"action_masks", "action_dim_masks", "image_masks"} <= set(config.runner.collator.keys)
    start = str(model.pretrained_name_or_path)
    from_scratch = name.endswith("libero_10_full_train")
    assert ("paligemma" if from_scratch else f"{path.parent.name}_base") in start


@each_full_config
def test_the_strategy_decides_which_parts_are_trained(path: Path) -> None:
    config = full_config(path)
    model = meta_model(config)
    if config.model.use_lora:
        with torch.device("meta"):
            apply_lora(model)  # type: ignore[arg-type]
    is_gr00t = path.parent.name == "gr00t"
    trained = {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    vlm = {"vision_backbone", "projector", "llm_backbone"}
    is_frozen = config.model.freeze_vlm_backbone or (is_gr00t and config.model.use_lora)
    assert vlm.isdisjoint(trained) if is_frozen else vlm <= trained
    head = {"action_encoder", "action_decoder", "state_encoder"} if is_gr00t else PI_HEAD
    assert head <= trained
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    share = sum(size for size, grad in sizes if grad) / sum(size for size, _ in sizes)
    is_part = config.model.use_lora or config.model.freeze_vlm_backbone
    assert share < 0.2 if is_part else share > 0.95


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two short episodes of each robot, in LeRobot v2.1."""
    folder = tmp_path_factory.mktemp("datasets")
    roots = {name: write_dataset(folder / name, *shape) for name, shape in ROBOTS.items()}
    return {**roots, "aloha-sim": roots["aloha"]}


def write_dataset(
    root: Path, state_dim: int, action_dim: int, cameras: tuple[str, ...], fps: float
) -> Path:
    features = {
        "observation.state": vector_feature(tuple(f"s{i}" for i in range(state_dim))),
        "action": vector_feature(tuple(f"a{i}" for i in range(action_dim))),
        **{video_key(camera): video_feature(HEIGHT, WIDTH, fps) for camera in cameras},
    }
    rng = np.random.default_rng(0)
    with WriterV21(root, fps=fps, robot_type=root.name, features=features) as writer:
        for index in range(EPISODES):
            with EpisodeRecorder(writer.staging(str(index)), fps, features) as recorder:
                for _ in range(FRAMES):
                    frame: dict[str, Any] = {
                        video_key(c): rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
                        for c in cameras
                    }
                    for key, dim in (("observation.state", state_dim), ("action", action_dim)):
                        frame[key] = rng.normal(0.5, 0.3, dim).astype(np.float32)
                    recorder.add(frame)
                writer.add(recorder.close("pour"))
    return root


def tiny(path: Path, datasets: dict[str, Path]) -> dict[str, Any]:
    """The config's plain tree, made tiny, on the datasets of this module."""
    tree = load_config(path)
    shrink_model(tree["model"])
    loader = tree["train_dataloader"]
    loader |= {"per_device_batch_size": 8, "per_device_num_workers": 0}
    for robot, member in members(loader["dataset"]):
        member["data_root_path"] = str(datasets[robot])
        member["pictures_of_other_tasks"] = 0.0  # there is one task
        shrink_prompt(member["transforms"])
    for section in inference_trees(tree):
        shrink_prompt(section["dataset"]["transforms"])
    # Tensors this small are faster on one thread.
    few = {"max_epochs": None, "max_steps": 2, "log_interval": 1, "num_threads": 1}
    tree["runner"] |= {**few, "enable_mixed_precision_training": False}
    return tree


def shrink_model(model: dict[str, Any]) -> None:
    if model["type"] == "GR00TFlowMatching":
        if "vision_backbone" not in model:  # the small one, which states it, is small already
            shrink_gr00t(model)
        return
    width = 16
    sizes = {"hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    for part in ("llm_backbone", "llm_expert"):
        model[part] |= sizes
    if model["llm_expert"].get("use_adarms"):
        model["llm_expert"]["adarms_cond_dim"] = width
    if model["vision_backbone"]["type"] == "SigLIPViTBackbone":
        # The image keeps the size that the transforms give it: 16 patches.
        vision = {k: v for k, v in sizes.items() if k != "head_dim"} | {"num_attention_heads": 2}
        model["vision_backbone"]["vision_config"] = vision | {"patch_size": 56}
        model["llm_backbone"]["vocab_size"] = 600
        model["projector"]["in_dim"] = width
    model["projector"]["out_dim"] = model["proj_width"] = width
    model["action_in_proj"]["out_dim"] = model["action_out_proj"]["in_dim"] = width
    if "state_proj" in model:
        model["state_proj"]["out_dim"] = width
    model["pretrained_name_or_path"] = None
    if model.get("use_lora"):
        model["lora_rank"] = 2


def shrink_gr00t(model: dict[str, Any]) -> None:
    width = 16
    heads = {"num_attention_heads": 2, "attention_head_dim": 8}
    vision = {"num_attention_heads": 2, "patch_size": 56}
    sizes = {"hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 1}
    model |= {
        "vision_backbone": {"type": "SigLIPViTBackbone", "vision_config": sizes | vision},
        "projector": {"type": "LinearProjector", "in_dim": width, "out_dim": width},
        "llm_backbone": sizes
        | {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 600},
        "vl_self_attention": heads | {"num_layers": 1},
        "dit": heads | {"num_layers": 2, "output_dim": width, "cross_attention_dim": width},
        "hidden_size": width,
        "image_places": {"token_id": WORDS.encode(IMAGE_TOKEN)[-1], "label_tokens": 1},
        "pretrained_name_or_path": None,
    }
    if model.get("use_lora"):
        model["lora_rank"] = 2


def members(dataset: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    groups = dataset["datasets"]
    if "type" in groups:
        groups = {dataset["statistic_name"]: [groups]}
    for robot, group in groups.items():
        yield from ((robot, member) for member in group)


def inference_trees(tree: dict[str, Any]) -> list[dict[str, Any]]:
    section = tree.get("inference", {})
    return [section] if "dataset" in section else list(section.values())


def shrink_prompt(transforms: list[dict[str, Any]]) -> None:
    """A tokenizer that needs no file."""
    for transform in transforms:
        name = transform.get("tokenizer", {}).get("type")
        if transform["type"] == "ProcessPromptsWithImage" and name != "ByteTokenizer":
            # Three images, 16 patches each.
            transform["tokenizer"] = unbind(WORDS)
            transform |= {"image_tokens": 16, "max_len": 90}
        elif name == "PretrainedTokenizer":
            transform["tokenizer"] = {"type": "ByteTokenizer"}


@each_config
def test_a_config_trains_two_steps(path: Path, datasets: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(tiny(path, datasets)))
    assert main([str(file), str(tmp_path / "run")]) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [line for line in map(json.loads, lines) if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2]
    assert all(math.isfinite(line["loss"]) and line["loss"] > 0 for line in steps)
    assert (tmp_path / "run" / "checkpoint_epoch_1.pt").is_file()


@each_config
def test_the_robot_undoes_what_training_did(path: Path, datasets: dict[str, Path]) -> None:
    """State, prompt and units are the same on both sides, and actions are in the robot's units."""
    tree = tiny(path, datasets)
    for _, member in members(tree["train_dataloader"]["dataset"]):
        for transform in member["transforms"]:
            if transform["type"] == "DropStates":
                transform["share"] = 0.0  # a dropped state cannot be undone
    config = bind_train_config(tree)
    assert config.inference is not None
    dataset = config.train_dataloader.dataset.build()
    groups = list(config.train_dataloader.dataset.groups())
    for robot, inference in inference_sections(config.inference).items():
        source = dataset.datasets[groups.index(inference.statistics_group(groups))]
        io = PolicyIO.from_policy(inference, dataset.stats)
        raw, trained = source.raw_sample(3), source[3]
        images = {
            camera: np.zeros((HEIGHT, WIDTH, 3), np.uint8) for camera in inference.dataset.img_keys
        }
        seen = io.encode(
            Observation(images=images, state=raw.state, prompt="pour", timestamp_s=0.0)
        )
        np.testing.assert_allclose(seen["state"][0], trained["states"], atol=1e-5)
        np.testing.assert_array_equal(seen["lang_tokens"][0], trained["lang_tokens"])
        np.testing.assert_array_equal(seen["lang_masks"][0], trained["lang_masks"])
        assert seen["images"].shape[1] == trained["image_masks"].sum()
        actions = io.decode(trained["actions"], raw.state)
        assert actions.shape[1] == ROBOT_SPECS[robot].action_dim
        np.testing.assert_allclose(actions, raw.actions, atol=1e-4)


@each_mixed_config
def test_both_robots_train_with_their_own_dimensions_and_cameras(
    path: Path, datasets: dict[str, Path]
) -> None:
    config = bind_train_config(tiny(path, datasets))
    dataset = config.train_dataloader.dataset.build()
    assert set(dataset.stats) == {"aloha", "ur3"}
    assert {stats["action"].dim for stats in dataset.stats.values()} == {14}
    first, second = list(EpochBatches(dataset, 8))[:2]
    batch = config.runner.collator(dataset.__getitems__([*first, *second]))
    is_aloha = batch["action_dim_masks"].all(axis=1)
    assert is_aloha.any() and not is_aloha.all()
    assert batch["image_masks"][is_aloha].all()
    # A UR3's third camera is masked and black (-1), not a copy of the second camera.
    ur3 = ~is_aloha
    assert (batch["image_masks"][ur3] == [True, True, False]).all()
    assert (batch["images"][ur3][:, 2] == -1).all()
    assert (batch["action_dim_masks"][ur3] == [True] * 7 + [False] * 7).all()
    np.testing.assert_allclose(batch["states"][ur3][:, 7:], 0.0, atol=1e-6)


@each_mixed_config
def test_the_right_arm_is_trained_and_a_ur3s_padding_is_not(
    path: Path, datasets: dict[str, Path]
) -> None:
    config = bind_train_config(tiny(path, datasets))
    dataset = config.train_dataloader.dataset.build()
    assert isinstance(config.model.vision_backbone, SigLIPViTBackbone.Config)
    model = config.model.build()
    gradients = {}
    for name, indices in (("aloha", range(4)), ("ur3", range(len(dataset) - 4, len(dataset)))):
        samples = config.runner.collator(dataset.__getitems__(list(indices)))
        batch = {key: torch.as_tensor(value) for key, value in samples.items()}
        model.zero_grad()
        loss = flow_matching_loss(model, batch, generator=torch.Generator().manual_seed(0))
        loss.loss.backward()
        gradient = model.action_out_proj.projector.weight.grad
        assert gradient is not None
        gradients[name] = gradient.abs().sum(dim=1)
    assert (gradients["aloha"] > 0).all(), "dims 7 to 13 are Aloha's right arm"
    assert (gradients["ur3"][:7] > 0).all()
    assert (gradients["ur3"][7:] == 0).all()
