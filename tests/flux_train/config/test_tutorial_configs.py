"""The tutorial's snippets, read from its text and completed to whole files, load and bind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flux_core.bundle.bundle import Bundle
from flux_core.config import bind, unbind
from flux_core.config.compat import _warn_once
from flux_core.deployment import AlohaInferenceRunner, URInferenceRunner
from flux_core.errors import ConfigError
from flux_core.models.pi import PI0FlowMatching
from flux_core.policy_io import PolicyIO
from flux_core.robots import robot_spec
from flux_core.types import Observation
from flux_data.lerobot.recorder import EpisodeRecorder, robot_features, video_key
from flux_data.lerobot.writer import WriterV21
from flux_data.samples.mixture import DistributedRepeatingDataset
from flux_runtime.control.preflight import check_bundle_fits
from flux_runtime.engines.golden_replay import replay_golden
from flux_runtime.engines.opening import open_flow_policy
from flux_runtime.export.cli import main as export_main
from flux_train.cli import main
from flux_train.config.runner import FSDPTrainRunner
from flux_train.config.tree import TrainConfig, read_train_config

GEMMA = """attention_bias=False, attention_dropout=0.0, bos_token_id=2, eos_token_id=1,
    head_dim=256, hidden_act='gelu_pytorch_tanh', hidden_activation='gelu_pytorch_tanh',
    initializer_range=0.02, max_position_embeddings=8192, model_type='gemma', num_attention_heads=8,
    num_hidden_layers=18, num_key_value_heads=1, rms_norm_eps=1e-06, rope_theta=10000.0,
    torch_dtype='float32', use_cache=True, vocab_size=257152"""
SIGLIP = """attention_dropout=0.0, hidden_act='gelu_pytorch_tanh', hidden_size=1152, image_size=224,
    intermediate_size=4304, layer_norm_eps=1e-06, model_type='siglip_vision_model',
    num_attention_heads=16, num_channels=3, num_hidden_layers=27, patch_size=14,
    projection_dim=2048, projector_hidden_act='gelu_fast', torch_dtype='float32',
    vision_use_head=False"""
COMPONENTS = {
    "split": f"""
    vision_backbone=dict(type='SigLIPViTBackbone', vision_backbone_id='siglip_224',
        vision_config=dict({SIGLIP})),
    projector=dict(type='LinearProjector', in_dim=1152, out_dim=2048),
    llm_backbone=dict(type='ConditionGemmaModel', adarms_cond_dim=None, hidden_size=2048,
        intermediate_size=16384, {GEMMA}),
    llm_expert=dict(type='ConditionGemmaModel', adarms_cond_dim=None, use_adarms=False,
        hidden_size=1024, intermediate_size=4096, pad_token_id=0, {GEMMA}),
    """,
    "paligemma": f"""
    vlm_backbone=dict(type='PaliGemma', vlm_backbone_id='paligemma_3b_pt_224', use_llm=True,
        vlm_config=dict(vocab_size=257152, bos_token_id=2, eos_token_id=1, hidden_size=2048,
            image_token_index=257152, model_type='paligemma', pad_token_id=0, projection_dim=2048,
            transformers_version='4.52.4', vision_config=dict({SIGLIP}, num_image_tokens=256),
            text_config=dict(hidden_size=2048, intermediate_size=16384, num_image_tokens=256,
                {GEMMA}))),
    llm_expert=dict(type='GemmaLLMBackbone', llm_backbone_id='gemma-2b_causal', llm_family='gemma',
        llm_path=None, llm_max_length=2048, hf_token=None, inference_mode=False,
        llm_config=dict(hidden_size=1024, intermediate_size=4096, tie_word_embeddings=False,
            {GEMMA})),
    """,
    "paligemma by its name alone": f"""
    vlm_backbone=dict(type='PaliGemma', vlm_backbone_id='paligemma_3b_pt_224'),
    llm_expert=dict(type='GemmaLLMBackbone',
        llm_config=dict(hidden_size=1024, intermediate_size=4096, {GEMMA})),
    """,
}
RUNNER = """
runner = dict(type='FSDPTrainRunner', stage='vla-full-train', max_epochs=3, learning_rate=2e-5,
    weight_decay=0.0, max_grad_norm=1.0, sampler=None, lr_scheduler_type='constant',
    collator=dict(type='DictCollator', keys=['states', 'timestamp', 'images', 'img_masks',
        'lang_tokens', 'lang_masks', 'actions', 'action_masks'],
        meta_keys=['task_description', 'prompt']),
    tokenizer=dict(type='PretrainedTokenizer', model_path='/path/to/checkpoints/pi0'),
    metric=dict(type='VLAMetric', active_trackers=('jsonl',), run_dir='work_dirs',
        grad_accumulation_steps=1, window_size=1),
    sharding_strategy='no-shard', warmup_ratio=0.0, enable_gradient_checkpointing=False,
    enable_mixed_precision_training=True, mixed_precision_dtype='bf16', change_key_name=False)
"""


# The tutorial shows one robot's section; a mixed checkpoint drives several, each by its own.
BOTH_ROBOTS = """
_aloha = inference
_aloha['statistic_name'] = 'aloha_4090'
_ur3_runner = _copy.deepcopy(inference)
_ur3_runner.update(type='URInferenceRunner', statistic_name='ur3',
    operator=dict(type='UROperator', use_depth_image=False))
_ur3_runner['dataset']['img_keys'] = ['cam_high', 'cam_wrist']
_ur3_transforms = _ur3_runner['dataset']['transforms']
for _key in ('means', 'stds'):
    _ur3_transforms[3][_key] = _ur3_transforms[3][_key][:2]
_ur3_transforms.insert(0, dict(type='PadKeyToDim', keys=['states'], dim=14))
inference = dict(aloha=_aloha, ur3=_ur3_runner)
"""


@pytest.fixture(autouse=True)
def forget_warnings() -> None:
    """Each test sees every warning, although a process logs it only once."""
    _warn_once.cache_clear()


@pytest.fixture(scope="session")
def tutorial(shared_data: Path) -> str:
    folder = shared_data.parent / "reference"
    files = sorted(folder.glob("*.txt"))
    if not files:
        pytest.skip(f"the tutorial's text is not in {folder}")
    return files[0].read_text()


def snippet(text: str, start: str, nth: int = 0) -> str:
    """The tutorial's nth code block that begins with `start`, up to its last bracket."""
    at = -1
    for _ in range(nth + 1):
        at = text.index(f"\n{start}", at + 1)
    depth = 0
    for end in range(at, len(text)):
        depth += (text[end] in "([{") - (text[end] in ")]}")
        if depth == 0 and text[end] in ")]}":
            return text[at : end + 1]
    raise AssertionError(f"{start} never ends")


def aloha(tutorial: str, spelling: str = "split") -> str:
    """Section 2 of the tutorial as a whole file; adds only what the section leaves out."""
    marker = "# ... PaliGemma 和 Gemma Expert 配置不变 ..."
    model = snippet(tutorial, "model = dict(")
    assert marker in model
    return "\n".join(
        [
            model.replace(marker, COMPONENTS[spelling]),
            "inference_model = model.copy()",
            snippet(tutorial, "train_dataloader = dict("),
            RUNNER,
            snippet(tutorial, "inference = dict("),
        ]
    )


def ur3(tutorial: str) -> str:
    """Section 3: the Aloha file with the changes from the section's table."""
    text = aloha(tutorial)
    head, tail = text.split("operator=dict(")
    text = head + "operator=dict(type='UROperator', use_depth_image=False))"
    del tail
    stats = "[123.515625, 116.04492188, 103.59375],\n[123.515625, 116.04492188, 103.59375],\n"
    spread = "[58.27148438, 57.02636719, 57.27539062],\n[58.27148438, 57.02636719, 57.27539062],\n"
    for old, new in {
        "in_dim=14": "in_dim=7",
        "out_dim=14": "out_dim=7",
        "max_action_dim=14": "max_action_dim=7",
        "action_dim=14": "action_dim=7",
        "action_dim=16": "action_dim=7",
        "'observation.images.cam_left_wrist',\n": "",
        "observation.images.cam_right_wrist": "observation.images.cam_wrist",
        "img_keys=['cam_high', 'cam_left_wrist', 'cam_right_wrist']": (
            "img_keys=['cam_high', 'cam_left_wrist']"
        ),
        "AlohaInferenceRunner": "URInferenceRunner",
        stats: "[123.515625, 116.04492188, 103.59375],\n",
        spread: "[58.27148438, 57.02636719, 57.27539062],\n",
    }.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def mixed(tutorial: str) -> str:
    """Section 4: groups of datasets, with UR3's data padded to Aloha's dimensions."""
    pad = tutorial[tutorial.index("dict(\ntype='PadKeyToDim'") :]
    pad = pad[: pad.index("),\n") + 2]
    dataloader = snippet(tutorial, "train_dataloader = dict(", 1)
    dataset = "dict(type='ParquetDataset', data_root_path='...', ...)"
    assert dataloader.count(dataset) == 4
    dataloader = dataloader.replace(
        "name_mappings=", "statistic_keys=['observation.state'],\nname_mappings="
    )
    aloha_groups, ur3_group = dataloader.split("ur3=[")
    dataloader = (
        aloha_groups.replace(dataset, "_aloha_dataset")
        + "ur3=["
        + ur3_group.replace(dataset, "_ur3")
    ).replace("train_dataloader = dict(", "train_dataloader = dict(\nper_device_batch_size=8,", 1)
    return "\n".join(
        [
            aloha(tutorial),
            "import copy as _copy",
            "_aloha_dataset = train_dataloader['dataset']['datasets'][0]",
            "_ur3 = _copy.deepcopy(_aloha_dataset)",
            "_ur3['transforms'][0]['video_keys'] = ['observation.images.cam_high',",
            "    'observation.images.cam_wrist']",
            "_ur3['transforms'][0]['num_padding_imgs'] = 1",
            f"_ur3['transforms'].insert(1, {pad})",
            dataloader,
            BOTH_ROBOTS,
        ]
    )


def bound(text: str, folder: Path, *overrides: str) -> TrainConfig:
    path = folder / "config.py"
    path.write_text(text)
    return read_train_config(path, overrides)[0]


def shapes(config: PI0FlowMatching.Config) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = config.build()
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def test_the_aloha_file_binds_to_what_the_tutorial_says(tutorial: str, tmp_path: Path) -> None:
    config = bound(aloha(tutorial), tmp_path)
    model = config.model
    assert (model.action_dim, model.n_action_steps, model.max_action_dim) == (14, 32, 14)
    assert model.pretrained_name_or_path == "/path/to/checkpoints/pi0/model.safetensors"
    assert model.freeze_vlm_backbone and not model.freeze_llm_expert
    assert isinstance(config.runner, FSDPTrainRunner)
    assert config.train_dataloader.per_device_batch_size == 8
    (group,) = config.train_dataloader.dataset.groups().values()
    assert len(group[0].roots) == 2 and group[0].action_window_size == 32
    inference = config.inference
    assert isinstance(inference, AlohaInferenceRunner)
    assert inference.operator.img_front_topic == "/camera_f/color/image_raw"
    assert inference.steps_executed(model.n_action_steps) == 32


def test_every_spelling_of_the_backbones_is_the_same_network(tutorial: str, tmp_path: Path) -> None:
    found = [shapes(bound(aloha(tutorial, name), tmp_path).model) for name in COMPONENTS]
    assert found[0] == found[1] == found[2]
    assert sum(torch.Size(shape).numel() for shape in found[0].values()) > 3.2e9


def test_the_ur3_file_binds(tutorial: str, tmp_path: Path) -> None:
    config = bound(ur3(tutorial), tmp_path)
    assert config.model.action_dim == 7
    assert isinstance(config.inference, URInferenceRunner)
    # FluxVLA names the wrist camera differently on the robot and in its datasets.
    assert config.inference.dataset.img_keys == ("cam_high", "cam_wrist")


def test_the_mixed_file_binds_with_its_groups(tutorial: str, tmp_path: Path) -> None:
    config = bound(mixed(tutorial), tmp_path)
    groups = config.train_dataloader.dataset.groups()
    assert {name: len(members) for name, members in groups.items()} == {
        "aloha_4090": 1,
        "aloha_4060": 2,
        "ur3": 1,
    }
    assert config.train_dataloader.dataset.dim == 14
    assert groups["ur3"][0].transforms[1].dim == 14  # type: ignore[union-attr]


def test_a_bound_config_binds_again_from_its_resolved_tree(tutorial: str, tmp_path: Path) -> None:
    for text in (aloha(tutorial, "paligemma"), ur3(tutorial), mixed(tutorial)):
        config = bound(text, tmp_path)
        assert bind(TrainConfig, unbind(config)) == config


def test_the_tutorials_overrides_reach_the_runner(tutorial: str, tmp_path: Path) -> None:
    line = next(line for line in tutorial.splitlines() if line.startswith("--cfg-options"))
    config = bound(aloha(tutorial), tmp_path, *line.split()[1:])
    assert (config.runner.max_epochs, config.runner.learning_rate) == (50, 1e-5)


def test_renamed_and_unused_keys_are_reported_once(
    tutorial: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = aloha(tutorial, "paligemma").replace(
        "n_action_steps=32,", "n_action_steps=32, ori_action_dim=14,"
    )
    for _ in range(2):
        bound(text, tmp_path)
    for told in (
        "model: 'vlm_backbone' is now 'vision_backbone', 'llm_backbone', 'projector'",
        "model: 'ori_action_dim' is now 'loss_action_dim'; read as loss_action_dim=14",
        "train_dataloader: ignored 'batch_size': per_device_batch_size decides",
        "inference.denormalize_action: 'use_quantiles' is now 'norm_type'; "
        "read as norm_type='mean_std'",
        "runner: ignored 'stage': the model's freeze flags decide what is trained",
    ):
        assert caplog.messages.count(told) == 1, told
    assert "action_dim is 16 beside a model of 14; the model's counts" in caplog.text


BREAK: dict[str, tuple[str, str, str]] = {
    "projector": (
        "projector=dict(type='LinearProjector', in_dim=1152, out_dim=2048)",
        "projector=dict(type='LinearProjector', in_dim=1152, out_dim=1024)",
        "model.projector.out_dim: expected 2048 to fit its neighbours, got 1024",
    ),
    "action dims": (
        "max_action_dim=14",
        "max_action_dim=7",
        "model.max_action_dim: expected 14 to fit its neighbours, got 7",
    ),
    "padded actions": (
        "action_dim=14,\nstate_key",
        "action_dim=16,\nstate_key",
        "NormalizeStatesAndActions pads actions to 16, but the network's have 14 dimensions",
    ),
    "chunk and window": (
        "n_action_steps=32",
        "n_action_steps=50",
        "model.n_action_steps: expected 32 (train_dataloader.dataset.datasets.0."
        "action_window_size), got 50",
    ),
    "norm type": (
        "action_dim=14,\nstate_key='proprio',\naction_key='action',\nuse_quantiles=False",
        "action_dim=14,\nstate_key='proprio',\naction_key='action',\nnorm_type='minmax'",
        "train_dataloader.dataset.datasets.0.transforms.5.norm_type: expected 'mean_std' or "
        "'quantile' or 'min_max', got 'minmax'",
    ),
    "norm types that differ": (
        "type='DenormalizePrivateAction',\nuse_quantiles=False",
        "type='DenormalizePrivateAction',\nuse_quantiles=True",
        "inference.denormalize_action.norm_type: expected 'mean_std' as in training, got",
    ),
    "another prompt": (
        "dict(type='PrivatePrompter')",
        "dict(type='PrivatePrompter', add_new_line=False)",
        "inference.dataset.transforms: the prompt differs from training",
    ),
    "row-to-row differences": (
        "action_window_size=32",
        "action_window_size=32, use_delta=True",
        "train_dataloader.dataset.datasets.0.use_delta: True is not supported: row-to-row",
    ),
    "trained and frozen": (
        "freeze_vlm_backbone=True",
        "freeze_vlm_backbone=True, modules_to_save=['projector']",
        "model.modules_to_save: 'projector' would be trained, but a freeze flag freezes it",
    ),
    "both spellings at once": (
        "proj_width=1024",
        "proj_width=1024, vlm_backbone=dict(type='PaliGemma')",
        "model.llm_backbone: is also given in model.vlm_backbone. Remove one",
    ),
    "another vlm": (
        "vision_backbone=dict(type='SigLIPViTBackbone', vision_backbone_id='siglip_224',",
        "vlm_backbone=dict(type='EagleBackbone'), _unused=dict(",
        "model.vlm_backbone.type: expected 'PaliGemma', got 'EagleBackbone'",
    ),
    "a delay longer than the chunk": (
        "proj_width=1024",
        "proj_width=1024, rtc_training_config=dict(max_delay=40)",
        "model.rtc_training_config.max_delay: expected at most 32 (n_action_steps), got 40",
    ),
    "a mistyped key": (
        "max_epochs=3",
        "max_epoch=3",
        "runner.max_epoch: FSDPTrainRunner has no field 'max_epoch'. Did you mean 'max_epochs'?",
    ),
}


@pytest.mark.parametrize("case", BREAK)
def test_a_contradiction_is_an_error_with_its_dotted_path(
    case: str, tutorial: str, tmp_path: Path
) -> None:
    old, new, message = BREAK[case]
    text = aloha(tutorial)
    assert old in text
    with pytest.raises(ConfigError) as error:
        bound(text.replace(old, new, 1), tmp_path)
    assert message in str(error.value)


def test_the_config_says_how_32_dimensional_weights_are_cut(tutorial: str, tmp_path: Path) -> None:
    config = bound(aloha(tutorial), tmp_path, "model.pretrained_adapt=slice")
    assert config.model.pretrained_adapt == "slice"
    with pytest.raises(ConfigError, match="model.pretrained_adapt: expected 'slice' or 'reinit'"):
        bound(aloha(tutorial), tmp_path, "model.pretrained_adapt=cut")


TINY = [
    *(
        f"model.{part}.{key}"
        for part in ("llm_backbone", "llm_expert")
        for key in ("hidden_size=16", "intermediate_size=16", "num_hidden_layers=1", "head_dim=8")
    ),
    "model.vision_backbone.vision_config.hidden_size=16",
    "model.vision_backbone.vision_config.intermediate_size=16",
    "model.vision_backbone.vision_config.num_hidden_layers=1",
    "model.vision_backbone.vision_config.num_attention_heads=2",
    "model.projector.in_dim=16",
    "model.projector.out_dim=16",
    "model.proj_width=16",
    "model.state_proj.out_dim=16",
    "model.action_in_proj.out_dim=16",
    "model.action_out_proj.in_dim=16",
    "model.pretrained_name_or_path=none",
    "runner.max_epochs=none",
    "runner.max_steps=2",
    "runner.log_interval=1",
    "runner.enable_mixed_precision_training=false",
    "train_dataloader.per_device_batch_size=2",
    "train_dataloader.per_device_num_workers=0",
    # The shared dataset has no end-effector pose.
    "train_dataloader.dataset.statistic_keys=['observation.state','timestamp']",
    "train_dataloader.dataset.datasets.0.transforms.0.parquet_keys="
    "['observation.state','timestamp','actions','info','stats','action_masks']",
]


def tiny_options(shared_data: Path, dataset: Path) -> list[str]:
    tokenizer = shared_data / "tokenizer" / "paligemma_rebuilt.model"
    root = "train_dataloader.dataset.datasets.0"
    return [
        *TINY,
        f"{root}.data_root_path={dataset}",
        f"{root}.transforms.2.tokenizer.model_path={tokenizer}",
    ]


def run(text: str, folder: Path, *options: str) -> int:
    path = folder / "config.py"
    path.write_text(text)
    return main([str(path), str(folder / "run"), "--cfg-options", *options])


def test_the_aloha_file_trains_at_a_tiny_size(
    tutorial: str, shared_data: Path, one_episode: Path, tmp_path: Path
) -> None:
    assert run(aloha(tutorial, "split"), tmp_path, *tiny_options(shared_data, one_episode)) == 0
    assert (tmp_path / "run" / "checkpoint_epoch_1.pt").is_file()
    assert (tmp_path / "run" / "tokenizer" / "tokenizer.model").is_file()


@pytest.fixture(scope="module")
def ur3_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short UR3 episodes: seven dimensions, two cameras, 30 Hz."""
    spec = robot_spec("ur3")
    root = tmp_path_factory.mktemp("ur3") / "dataset"
    features = robot_features(spec, 48, 64)
    rng = np.random.default_rng(0)
    with WriterV21(root, fps=30.0, robot_type="ur3", features=features) as writer:
        for index in range(2):
            with EpisodeRecorder(writer.staging(str(index)), 30.0, features) as recorder:
                for _ in range(12):
                    state, action = rng.normal(0.5, 0.3, (2, 7)).astype(np.float32)
                    images = rng.integers(0, 256, (2, 48, 64, 3), dtype=np.uint8)
                    keys = [video_key(camera) for camera in spec.cameras]
                    cameras = dict(zip(keys, images, strict=True))
                    recorder.add({"observation.state": state, "action": action, **cameras})
                writer.add(recorder.close("pour"))
    return root


def test_aloha_and_ur3_train_together(
    tutorial: str, shared_data: Path, one_episode: Path, ur3_dataset: Path, tmp_path: Path
) -> None:
    """Section 4 on real files: each robot has its own statistics, cameras and dimensions."""
    tokenizer = shared_data / "tokenizer" / "paligemma_rebuilt.model"
    options = [option for option in TINY if not option.startswith("train_dataloader.dataset")]
    collator = "'states','images','img_masks','lang_tokens','lang_masks','actions','action_masks'"
    options.append(f"runner.collator.keys=[{collator},'action_dim_masks']")
    keys = "['observation.state','timestamp','actions','info','stats','action_masks']"
    for group, number, prompts in (
        ("aloha_4090", 0, 2),
        ("aloha_4060", 0, 2),
        ("aloha_4060", 1, 2),
        ("ur3", 0, 3),
    ):
        member = f"train_dataloader.dataset.datasets.{group}.{number}"
        root = ur3_dataset if group == "ur3" else one_episode
        options += [
            f"{member}.data_root_path={root}",
            f"{member}.transforms.0.parquet_keys={keys}",
            f"{member}.transforms.{prompts}.tokenizer.model_path={tokenizer}",
            f"{member}.transforms.{prompts}.max_len=24",
        ]
    options += [
        "inference.aloha.dataset.transforms.1.max_len=24",
        "inference.ur3.dataset.transforms.2.max_len=24",
    ]
    text = mixed(tutorial)
    config = bound(text, tmp_path, *options)
    dataset = config.train_dataloader.dataset.build()
    assert {name: stats["proprio"].dim for name, stats in dataset.stats.items()} == {
        "aloha_4090": 14,
        "aloha_4060": 14,
        "ur3": 14,
    }
    # Only the first seven dimensions of UR3's statistics are its own.
    assert dataset.stats["ur3"]["proprio"].mean[7:] == (0.0,) * 7
    assert (
        dataset.stats["ur3"]["proprio"].mean[:7] != dataset.stats["aloha_4090"]["proprio"].mean[:7]
    )
    aloha_sample, ur3_sample = dataset[0], dataset[len(dataset) - 1]
    assert aloha_sample["image_masks"].tolist() == [True, True, True]
    assert ur3_sample["image_masks"].tolist() == [True, True, False]
    assert ur3_sample["action_dim_masks"].tolist() == [True] * 7 + [False] * 7
    assert aloha_sample["action_dim_masks"].all()
    assert ur3_sample["images"].shape == aloha_sample["images"].shape
    np.testing.assert_allclose(ur3_sample["actions"][:, 7:], 0.0, atol=1e-6)
    assert run(text, tmp_path, *options) == 0
    saved = json.loads((tmp_path / "run" / "norm_stats.json").read_text())
    assert set(saved) == {"aloha_4090", "aloha_4060", "ur3"}
    checkpoint = tmp_path / "run" / "checkpoint_epoch_1.pt"
    assert export_main([str(checkpoint), "--out", str(tmp_path / "no")]) == 1
    for robot, raw in (("aloha", aloha_sample), ("ur3", ur3_sample)):
        out = tmp_path / robot
        arguments = [str(checkpoint), "--robot", robot, "--out", str(out)]
        assert export_main(arguments) == 0
        check_units(Bundle.open(out), robot, raw, dataset)


def check_units(
    bundle: Bundle, robot: str, sample: dict[str, Any], dataset: DistributedRepeatingDataset
) -> None:
    """The robot sees what training saw, and gets actions in its own units."""
    io, spec = PolicyIO.from_bundle(bundle), robot_spec(robot)
    check_bundle_fits(bundle.manifest, spec)
    source = dataset.datasets[0 if robot == "aloha" else -1]
    raw = source.raw_sample(0 if robot == "aloha" else len(source) - 1)
    cameras = bundle.manifest.cameras
    images = {name: np.zeros((48, 64, 3), np.uint8) for name in cameras}
    encoded = io.encode(Observation(images=images, state=raw.state, prompt="pour", timestamp_s=0.0))
    np.testing.assert_allclose(encoded["state"][0], sample["states"], atol=1e-5)
    found = io.decode(sample["actions"], raw.state)
    assert found.shape == (32, spec.action_dim)
    np.testing.assert_allclose(found, raw.actions, atol=1e-4)
    policy = open_flow_policy(bundle, num_threads=1)
    assert replay_golden(bundle, policy).ok
    answered = policy.infer(encoded, bundle.golden()["input.noise"])
    if robot == "ur3":  # padding stays where training had it, and ends at zero
        np.testing.assert_allclose(answered[..., 7:], 0.0, atol=1e-5)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "train_dataloader.dataset.datasets.0.transforms.2.max_len=4",
            "ProcessPrompts.max_len: the prompt",
        ),
        ("model.loss_action_dim=7", "dimensions 7 to 13 would never be trained"),
        ("model.llm_backbone.vocab_size=100", "vocab_size: expected at least 257152"),
        ("model.freeze_llm_expert=true", None),
    ],
)
def test_a_mistake_that_only_the_data_shows_is_reported_before_the_first_step(
    option: str,
    message: str | None,
    tutorial: str,
    shared_data: Path,
    one_episode: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = [*tiny_options(shared_data, one_episode), option]
    if message is None:  # frozen backbones still leave the projections to train
        assert run(aloha(tutorial), tmp_path, *options) == 0
        return
    if "max_len" in option:
        options.append("inference.dataset.transforms.1.max_len=4")
    assert run(aloha(tutorial), tmp_path, *options) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
