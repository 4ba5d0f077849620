"""FluxVLA's files for GR00T-N1.5 bind, and mean what the shipped configs of their names mean."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flux_core.config import bind
from flux_core.config.compat import _warn_once
from flux_core.deployment import inference_sections
from flux_core.errors import ConfigError
from flux_core.models import FlowPolicy
from flux_core.robots import EMBODIMENTS, embodiment_number
from flux_core.transforms import Normalization, Tokenization
from flux_core.transforms.gr00t import ProcessPromptsWithImage
from flux_train.config.tree import TrainConfig, bind_train_config

from .fluxvla_files import LIBERO, PARQUET_KEYS, STATES_ARE_ACTIONS, UR3, UR_TOPICS, Robot, loader
from .fluxvla_files import runner as fluxvla_runner
from .test_fluxvla_files import shapes, shipped

EAGLE = "fluxvla/models/third_party_models/eagle2_hg_model"
TOKENIZER = {"type": "PretrainedTokenizer", "model_path": EAGLE}
LLAVA: dict[str, Any] = {
    "type": "LlavaVLA",
    "pretrained_name_or_path": "./checkpoints/GR00T-N1.5-3B",
    "vlm_backbone": {"type": "EagleBackbone", "vlm_path": EAGLE},
    "vla_head": {
        "type": "FlowMatchingHead",
        "state_dim": 64,
        "hidden_size": 1024,
        "input_embedding_dim": 1536,
        "num_layers": 1,
        "num_heads": 4,
        "num_inference_timesteps": 4,
        "traj_length": 10,
        "action_dim": 32,
        "ori_action_dim": 7,
    },
    "freeze_vlm_backbone": False,
    "name_mapping": {"vlm_backbone.vlm": "backbone.eagle_model", "vla_head": "action_head"},
    "freeze_projector": False,
}
DIT = {
    "attention_head_dim": 48,
    "cross_attention_dim": 2048,
    "dropout": 0.2,
    "final_dropout": True,
    "interleave_self_attention": True,
    "norm_type": "ada_norm",
    "num_attention_heads": 32,
    "num_layers": 16,
    "output_dim": 1024,
    "positional_embeddings": None,
}


def llava(head: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    tree = json.loads(json.dumps(LLAVA)) | settings
    tree["vla_head"] |= head or {}
    return tree


def observation(robot: Robot, tokenizer: dict[str, Any], norm_type: str) -> list[dict[str, Any]]:
    count = len(robot.cameras)
    half = [[127.5] * 3] * count
    return [
        {
            "type": "ProcessPromptsWithImage",
            "max_len": 300 * count,
            "num_images": count,
            "tokenizer": tokenizer,
        },
        {"type": "ResizeImages", "height": 224, "width": 224},
        {"type": "NormalizeImages", "means": half, "stds": half},
        {
            "type": "NormalizeStatesAndActions",
            "state_dim": 64,
            "state_key": "proprio",
            "action_key": "action",
            "norm_type": norm_type,
        },
    ]


def fluxvla_file(robot: Robot) -> dict[str, Any]:
    is_libero = robot is LIBERO
    norm_type = "mean_std" if is_libero else "proprio"
    transforms = observation(robot, TOKENIZER, norm_type)
    transforms[-1]["action_dim"] = 32
    inputs = {
        "type": "ProcessParquetInputs",
        "embodiment_id": 2,
        "parquet_keys": PARQUET_KEYS,
        "video_keys": [f"observation.images.{name}" for name in robot.cameras],
        "name_mappings": {"observation.state": ["states"]},
    }
    data: dict[str, Any] = {
        "type": "ParquetDataset",
        "data_root_path": "./datasets/recordings",
        "transforms": [inputs, {"type": "ParquetPrompter"}, *transforms],
        "action_window_size": robot.steps,
    }
    if is_libero:
        data |= {"action_key": "action", "window_start_idx": 0}
        names: dict[str, Any] = {
            "name_mappings": {"observation.state": ["proprio"], "action": ["action"]},
            "statistic_keys": ["observation.state", "timestamp", "action"],
        }
        schedule: dict[str, Any] = {
            "max_epochs": 18,
            "learning_rate": 1.5e-5,
            "lr_scheduler_type": "linear-warmup+cosine-decay",
            "warmup_ratio": 0.03,
        }
    else:
        names = STATES_ARE_ACTIONS
        schedule = {
            "max_epochs": 6,
            "learning_rate": 2e-5,
            "lr_scheduler_type": "constant",
            "warmup_ratio": 0.0,
        }
    tree: dict[str, Any] = {
        # Of LIBERO, the number of predicted steps is FluxVLA's default.
        "model": llava({} if is_libero else {"num_steps": robot.steps}),
        "inference_model": llava(
            {"type": "FlowMatchingInferenceHead", "diffusion_model_cfg": DIT},
            vlm_backbone={"type": "EagleInferenceBackbone", "vlm_path": EAGLE},
        ),
        "train_dataloader": loader([data], **names),
        "runner": fluxvla_runner("FSDPTrainRunner", TOKENIZER, **schedule),
    }
    tree["runner"]["collator"]["keys"] = [*tree["runner"]["collator"]["keys"], "embodiment_ids"]
    if not is_libero:
        tree["inference"] = {
            "type": "URInferenceRunner",
            "task_descriptions": {"1": "grasp the measuring cylinder"},
            "dataset": {
                "type": "PrivateInferenceDataset",
                "embodiment_id": 2,
                "img_keys": list(robot.robot_cameras),
                "transforms": observation(robot, {"type": "PretrainedTokenizer"}, norm_type),
            },
            "denormalize_action": {
                "type": "DenormalizePrivateAction",
                "norm_type": norm_type,
                "action_dim": robot.action,
            },
            "operator": {"type": "UROperator", **UR_TOPICS},
        }
    return json.loads(json.dumps(tree))


def meaning(config: TrainConfig) -> dict[str, object]:
    model, runner = config.model, config.runner
    ((dataset,),) = config.train_dataloader.dataset.groups().values()
    pipelines = [
        dataset.pipeline,
        *(s.pipeline for s in inference_sections(config.inference).values()),
    ]
    prompts = [step for pipeline in pipelines for step in pipeline.steps(Tokenization)]
    assert all(isinstance(step, ProcessPromptsWithImage) for step in prompts)
    norms = [step.norm_type for pipeline in pipelines for step in pipeline.steps(Normalization)]
    return {
        "network": shapes(config),
        "steps": (model.n_action_steps, model.num_inference_steps, model.loss_action_dim),
        "frozen": model.frozen_parts(),
        "data": (dataset.action_key, dataset.window_start_idx, dataset.action_window_size),
        "embodiment": dataset.transforms[0].embodiment,  # pyright: ignore[reportAttributeAccessIssue]
        "length": {step.max_len for step in prompts},
        "normalisation": set(norms),
        "schedule": (runner.learning_rate, runner.max_epochs, runner.lr_scheduler_type),
    }


@pytest.mark.parametrize(
    ("robot", "name"),
    [
        (LIBERO, "gr00t/gr00t_eagle_3b_libero_10_full_finetune"),
        (UR3, "gr00t/gr00t_eagle_3b_ur3_full_finetune"),
    ],
    ids=["libero", "ur3"],
)
def test_a_file_means_what_the_shipped_config_means(robot: Robot, name: str) -> None:
    assert meaning(bind_train_config(fluxvla_file(robot))) == meaning(shipped(name))


def test_each_dead_key_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    _warn_once.cache_clear()
    for _ in range(2):
        bind(FlowPolicy.Config, llava(), "model")
    told = [text for text in caplog.messages if "ignored" in text]
    assert told == [
        "model: ignored 'name_mapping': the checkpoint's format is detected from its keys",
        "model: ignored 'num_heads', 'num_layers', 'traj_length': FluxVLA's FlowMatchingHead does "
        "not read it",
        "model: ignored 'vlm_path': the network's sizes are known, and autocast picks the compute "
        "type",
    ]


def test_num_steps_is_the_horizon_and_timesteps_are_the_steps_of_sampling() -> None:
    model = bind(FlowPolicy.Config, llava({"num_steps": 32, "num_inference_timesteps": 8}), "model")
    assert (model.n_action_steps, model.num_inference_steps) == (32, 8)
    assert bind(FlowPolicy.Config, llava(), "model").n_action_steps == 10


def test_the_inference_classes_are_the_same_network() -> None:
    fast = llava(
        {"type": "FlowMatchingInferenceHead", "diffusion_model_cfg": DIT},
        vlm_backbone={
            "type": "EagleInferenceBackbone",
            "vlm_path": EAGLE,
            "dtype": "bf16",
            "vlm_config": {"max_input_seq_len": 900},
            "select_layer": 12,
            "project_to_dim": None,
        },
    )
    assert bind(FlowPolicy.Config, fast, "model") == bind(FlowPolicy.Config, llava(), "model")


@pytest.mark.parametrize(
    ("head", "backbone", "message"),
    [
        ({"use_vlln": False}, {}, "model.vla_head.use_vlln: expected True, got False"),
        ({"noise_s": 1.0}, {}, "model.vla_head.noise_s: expected 0.999"),
        ({"input_embedding_dim": 512}, {}, "input_embedding_dim: expected 1536"),
        ({"hiden_size": 4}, {}, "model.vla_head.hiden_size: FlowMatchingHead has no field"),
        ({"type": "OtherHead"}, {}, "model.vla_head.type: expected 'FlowMatchingHead' or"),
        ({"num_steps": 2000}, {}, "model.vla_head.num_steps: expected at most 1024"),
        ({}, {"project_to_dim": 1536}, "model.vlm_backbone.project_to_dim: expected None"),
        ({}, {"tune_llm": False}, "tune_llm: is not supported. Set model.freeze_llm_backbone"),
        ({}, {"type": "QWen2_5VL"}, "model.vlm_backbone.type: expected 'EagleBackbone' or"),
    ],
)
def test_what_is_another_network_is_refused(
    head: dict[str, Any], backbone: dict[str, Any], message: str
) -> None:
    tree = llava(head)
    tree["vlm_backbone"] |= backbone
    with pytest.raises(ConfigError) as error:
        bind(FlowPolicy.Config, tree, "model")
    assert message in str(error.value)


def test_embodiments_have_nvidias_numbers_and_an_unknown_tag_is_an_error() -> None:
    tags = ("gr1", "oxe_droid", "agibot_genie1", "new_embodiment")
    assert [embodiment_number(tag) for tag in tags] == [24, 17, 26, 31]
    assert [embodiment_number(n) for n in (0, 31)] == [0, 31]
    with pytest.raises(ConfigError, match="got 'my_arm'.* use 'new_embodiment'"):
        embodiment_number("my_arm")
    with pytest.raises(ConfigError, match="Did you mean 'gr1'"):
        embodiment_number("gr2")
    assert max(EMBODIMENTS.values()) < 32


@pytest.mark.parametrize("embodiment", [None, 32, "my_arm"])
def test_a_dataset_needs_an_embodiment_that_the_network_has(embodiment: object) -> None:
    tree = fluxvla_file(LIBERO)
    inputs = tree["train_dataloader"]["dataset"]["datasets"][0]["transforms"][0]
    inputs["embodiment_id"] = embodiment
    with pytest.raises(ConfigError, match=r"transforms.0.embodiment_id: expected "):
        bind_train_config(tree)
