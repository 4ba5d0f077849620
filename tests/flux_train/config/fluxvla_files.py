"""FluxVLA's configs for the rows of the tutorial's table: its keys and values, in our own layout.

Each file is given at two sizes: the tutorial's, with the robot's own dimensions, and openpi's, with
projections of 32 dimensions and chunks of 50 steps, as in FluxVLA's repository.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Size = Literal["tutorial", "openpi"]
Tree = dict[str, Any]
PIXEL_MEAN, PIXEL_STD = (
    [123.515625, 116.04492188, 103.59375],
    [58.27148438, 57.02636719, 57.27539062],
)
HUGGING_FACE = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "hidden_activation": "gelu_pytorch_tanh",
    "initializer_range": 0.02,
    "max_position_embeddings": 8192,
    "model_type": "gemma",
    "torch_dtype": "float32",
    "use_cache": True,
}
GEMMA = HUGGING_FACE | {
    "type": "ConditionGemmaModel",
    "adarms_cond_dim": None,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "num_attention_heads": 8,
    "num_hidden_layers": 18,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "vocab_size": 257152,
}
SIGLIP = {
    "attention_dropout": 0.0,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "image_size": 224,
    "intermediate_size": 4304,
    "layer_norm_eps": 1e-06,
    "model_type": "siglip_vision_model",
    "num_attention_heads": 16,
    "num_channels": 3,
    "num_hidden_layers": 27,
    "patch_size": 14,
    "projection_dim": 2048,
    "projector_hidden_act": "gelu_fast",
    "torch_dtype": "float32",
    "vision_use_head": False,
}
COLLATED = [
    *("states", "observation.eepose", "timestamp", "images", "img_masks"),
    *("lang_tokens", "lang_masks", "actions", "action_masks"),
]
PARQUET_KEYS = ["observation.state", "timestamp", "actions", "info", "stats", "action_masks"]
LORA = {
    "use_lora": True,
    "lora_rank": 256,
    "lora_alpha": 512,
    "lora_dropout": 0.0,
    "lora_target_modules": [
        *("q_proj", "v_proj", "k_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        *("projector.projector", "out_proj", "fc1", "fc2"),
    ],
    "modules_to_save": ["action_in_proj", "action_out_proj", "time_mlp_in", "time_mlp_out"],
}
ALOHA_TOPICS = {
    "img_front_topic": "/camera_h/color/image_raw",
    "img_left_topic": "/camera_l/color/image_raw",
    "img_right_topic": "/camera_r/color/image_raw",
    "img_front_depth_topic": "/camera_h/depth/image_raw",
    "img_left_depth_topic": "/camera_l/depth/image_raw",
    "img_right_depth_topic": "/camera_r/depth/image_raw",
    "puppet_arm_left_cmd_topic": "/master/joint_left",
    "puppet_arm_right_cmd_topic": "/master/joint_right",
    "puppet_arm_left_topic": "/puppet/joint_left",
    "puppet_arm_right_topic": "/puppet/joint_right",
    "robot_base_topic": "/odom_raw",
    "robot_base_cmd_topic": "/cmd_vel",
}
UR_TOPICS = {
    "img_left_topic": "/wrist_camera/color/image_raw",
    "img_front_topic": "/front_camera/color/image_raw",
    "puppet_arm_left_topic": "/joint_states",
    "puppet_gripper_left_topic": "/gripper/position",
    "puppet_ee_pose_left_topic": "/arm/tcp_pose",
    "use_depth_image": False,
}


@dataclass(frozen=True, kw_only=True)
class Robot:
    """What the tables say about a robot: its dimensions, cameras and deployment."""

    state: int
    action: int
    steps: int
    cameras: tuple[str, ...]
    robot_cameras: tuple[str, ...] = ()
    runner: str = ""
    operator: Mapping[str, Any] | None = None


LIBERO = Robot(state=8, action=7, steps=10, cameras=("image", "wrist_image"))
ALOHA_CAMERAS = ("cam_high", "cam_left_wrist", "cam_right_wrist")
ALOHA = Robot(
    state=14,
    action=14,
    steps=32,
    cameras=ALOHA_CAMERAS,
    robot_cameras=ALOHA_CAMERAS,
    runner="AlohaInferenceRunner",
    operator={"type": "AlohaOperator", **ALOHA_TOPICS},
)
UR3 = Robot(
    state=7,
    action=7,
    steps=32,
    cameras=("cam_high", "cam_wrist"),
    # FluxVLA calls the wrist's camera otherwise on the robot than in its datasets.
    robot_cameras=("cam_high", "cam_left_wrist"),
    runner="URInferenceRunner",
    operator={"type": "UROperator", **UR_TOPICS},
)


def linear(in_dim: int, out_dim: int) -> Tree:
    return {"type": "LinearProjector", "in_dim": in_dim, "out_dim": out_dim}


def model(policy: str, robot: Robot, start: str | None, *, is_frozen: bool, size: Size) -> Tree:
    is_pi0 = policy == "pi0"
    state, action = (robot.state, robot.action) if size == "tutorial" else (32, 32)
    is_libero = robot is LIBERO
    expert = {"pad_token_id": 0, "transformers_version": "4.48.1", "use_adarms": not is_pi0}
    names = ["action_time_mlp_in", "action_time_mlp_out"] if is_pi0 else []
    names += [] if is_pi0 else ["time_mlp_in", "time_mlp_out"]
    found: Tree = {
        "type": "PI0FlowMatching" if is_pi0 else "PI05FlowMatching",
        "llm_backbone": GEMMA | {"hidden_size": 2048, "intermediate_size": 16384},
        "vision_backbone": {
            "type": "SigLIPViTBackbone",
            "vision_backbone_id": "siglip_224",
            "vision_config": SIGLIP,
        },
        "projector": linear(1152, 2048),
        "proj_width": 1024,
        "n_action_steps": robot.steps if size == "tutorial" or is_libero else 50,
        "action_in_proj": linear(action, 1024),
        "action_out_proj": linear(1024, action),
        "llm_expert": GEMMA
        | {"hidden_size": 1024, "intermediate_size": 4096}
        | ({} if is_pi0 else {"adarms_cond_dim": 1024})
        | expert,
        "pretrained_name_or_path": start,
        "name_mapping": {f"{name}.projector": name for name in ("action_in_proj", *names)},
    }
    if is_pi0:
        found["state_proj"] = linear(state, 1024)
        found["params_to_change_dtype"] = ["llm_expert.llm.model.layers"]
        found |= {names[0]: linear(2048, 1024), names[1]: linear(1024, 1024)}
        if size == "openpi":
            found["ori_action_dim"] = robot.action
    else:
        found |= {name: linear(1024, 1024) for name in names}
    if size == "openpi":
        found["max_action_dim"] = 32
    elif not is_libero:
        found["max_action_dim"] = robot.action
    if is_frozen:
        found["freeze_vlm_backbone"] = True
    else:
        found |= {"freeze_llm_backbone": False, "freeze_vision_backbone": False}
    return found


def pixels(cameras: int) -> Tree:
    return {
        "type": "NormalizeImages",
        "means": [PIXEL_MEAN] * cameras,
        "stds": [PIXEL_STD] * cameras,
    }


def normalization(robot: Robot, size: Size, norm_type: str, *, is_robot: bool = False) -> Tree:
    state, action = (robot.state, robot.action) if size == "tutorial" else (32, 32)
    dims = {"state_dim": state} | ({} if is_robot else {"action_dim": action})
    keys = {"state_key": "proprio", "action_key": "action"}
    return {"type": "NormalizeStatesAndActions", **dims, **keys, "norm_type": norm_type}


def prompts(robot: Robot, policy: str, tokenizer: Tree) -> list[Tree]:
    prompter: Tree = {"type": "ParquetPrompter", "use_conversation": False}
    if policy == "pi0":
        prompter["add_new_line"] = True
    return [prompter, {"type": "ProcessPrompts", "tokenizer": tokenizer}]


def dataset(robot: Robot, policy: str, roots: Any, size: Size, tokenizer: Tree) -> Tree:
    is_libero = robot.cameras == LIBERO.cameras
    found: Tree = {
        "type": "ParquetDataset",
        "data_root_path": roots,
        "transforms": [
            {
                "type": "ProcessParquetInputs",
                "parquet_keys": PARQUET_KEYS,
                "video_keys": [f"observation.images.{name}" for name in robot.cameras],
                "name_mappings": {"observation.state": ["states"], "actions": ["actions"]},
            },
            *prompts(robot, policy, tokenizer),
            {"type": "ResizeImages", "height": 224, "width": 224},
            pixels(len(robot.cameras)),
            normalization(robot, size, "mean_std" if is_libero else "proprio"),
        ],
        "action_window_size": robot.steps if size == "tutorial" or is_libero else 50,
    }
    if is_libero:
        found |= {"action_key": "action", "use_delta": False, "window_start_idx": 0}
    return found


def loader(datasets: Any, **names: Any) -> Tree:
    mixture = {"type": "DistributedRepeatingDataset", **names, "datasets": datasets}
    return {"per_device_batch_size": 8, "per_device_num_workers": 4, "dataset": mixture}


STATES_ARE_ACTIONS: Tree = {
    "name_mappings": {"observation.state": ["proprio", "action"]},
    "statistic_keys": ["observation.state", "observation.eepose", "timestamp"],
}


def runner(kind: str, tokenizer: Tree, **settings: Any) -> Tree:
    return {
        "type": kind,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "collator": {
            "type": "DictCollator",
            "keys": COLLATED,
            "meta_keys": ["task_description", "prompt", "info", "stats"],
        },
        "sampler": None,
        "tokenizer": tokenizer,
        "metric": {
            "type": "VLAMetric",
            "active_trackers": ["jsonl", "wandb"],
            "run_dir": "work_dirs",
            "grad_accumulation_steps": 1,
            "window_size": 1,
        },
        "enable_mixed_precision_training": True,
        "mixed_precision_dtype": "bf16",
        "change_key_name": False,
        **settings,
    }


def evaluation(suite: str) -> Tree:
    return {"type": "LiberoEvalRunner", "task_suite_name": suite, "num_trials_per_task": 50}


def libero(
    policy: str,
    suite: str,
    size: Size,
    *,
    start: str | None,
    kind: str = "FSDPTrainRunner",
    **more: Any,
) -> Tree:
    tokenizer: Tree = {"type": "PaligemmaTokenizer"}
    name = f"{suite}_no_noops"
    data = dataset(LIBERO, policy, f"./datasets/{name}_lerobotv2.1", size, tokenizer)
    network = model(policy, LIBERO, start, is_frozen=False, size=size) | more
    return {
        "model": network,
        "inference_model": {"type": "PI05FlowMatchingInference", "num_views": 2}
        if policy == "pi05"
        else network,
        "train_dataloader": loader(
            data | {"statistic_name": name},
            name_mappings={"observation.state": ["proprio"], "action": ["action"]},
            statistic_keys=["observation.state", "timestamp", "action"],
            statistic_name=name,
        ),
        "runner": runner(
            kind,
            tokenizer,
            max_epochs=24,
            learning_rate=5e-5,
            sharding_strategy="no-shard",
            lr_scheduler_type="linear-warmup+cosine-decay",
            warmup_ratio=0.03,
            enable_gradient_checkpointing=True,
        ),
        "eval": evaluation(suite),
    }


PI0_TOKENIZER: Tree = {"type": "PretrainedTokenizer", "model_path": "checkpoints/pi0_base"}
TASKS = {"1": "pick up the brown bird toy", "2": "place it in the box"}


def inference(robot: Robot, size: Size, **more: Any) -> Tree:
    return {
        "type": robot.runner,
        "task_descriptions": TASKS,
        "seed": 7,
        "dataset": {
            "type": "PrivateInferenceDataset",
            "img_keys": list(robot.robot_cameras),
            "transforms": [
                *prompts(robot, "pi0", {"type": "PretrainedTokenizer"}),
                {"type": "ResizeImages", "height": 224, "width": 224},
                pixels(len(robot.robot_cameras)),
                normalization(robot, size, "proprio", is_robot=True),
            ],
        },
        "denormalize_action": {
            "type": "DenormalizePrivateAction",
            "norm_type": "proprio",
            "action_dim": robot.action,
        },
        "action_chunk": 32 if size == "tutorial" or robot is UR3 else 50,
        "operator": robot.operator,
        **more,
    }


def real(robot: Robot, root: str, size: Size) -> Tree:
    data = dataset(robot, "pi0", [root], size, PI0_TOKENIZER)
    network = model("pi0", robot, PI0, is_frozen=size == "tutorial", size=size)
    return {
        "model": network,
        "inference_model": network,
        "train_dataloader": loader([data], **STATES_ARE_ACTIONS),
        "runner": runner(
            "FSDPTrainRunner",
            PI0_TOKENIZER,
            stage="vla-full-train",
            max_epochs=3,
            learning_rate=2e-5,
            lr_scheduler_type="linear-warmup+cosine-decay",
            warmup_ratio=0.1,
            enable_gradient_checkpointing=False,
        ),
        "inference": inference(robot, size),
    }


def mixed(size: Size) -> Tree:
    # FluxVLA shows the wrist's camera twice, so that both robots have three pictures.
    ur3 = replace(UR3, cameras=("cam_high", "cam_wrist", "cam_wrist"))
    groups = {
        "aloha": [dataset(ALOHA, "pi0", [AGILEX], size, PI0_TOKENIZER)],
        "ur3": [dataset(ur3, "pi0", [CHEM], size, PI0_TOKENIZER)],
    }
    if size == "tutorial":
        pad = {"type": "PadKeyToDim", "keys": ["states", "actions"], "dim": 14}
        groups["ur3"][0]["transforms"].insert(1, pad)
        groups["ur3"][0]["transforms"][-1] |= {"state_dim": 14, "action_dim": 14}
    tree = real(ALOHA, AGILEX, size)
    del tree["inference"]
    tree["train_dataloader"] = loader(groups, **STATES_ARE_ACTIONS)
    if size == "tutorial":
        tree["train_dataloader"]["dataset"]["dim"] = 14
    tree["runner"] |= {"max_epochs": 5, "lr_scheduler_type": "constant", "warmup_ratio": 0.0}
    return tree


PI0, PI05 = (f"./checkpoints/{name}_base/model.safetensors" for name in ("pi0", "pi05"))
PALIGEMMA = "./checkpoints/paligemma-3b-pt-224/model.safetensors"
AGILEX = "./datasets/RealRobot_AgileX_aloha_lerobot_v2/aloha_example"
CHEM = "./datasets/RealRobot_UR3_Chem_lerobot_v2/ur3_example"

NAMES = (
    "pi0/pi0_paligemma_libero_10_full_train",
    "pi0/pi0_paligemma_libero_10_full_finetune_pytorch",
    "pi05/pi05_paligemma_libero_10_full_finetune",
    "pi05/pi05_paligemma_libero_10_lora_finetune",
    "pi0/pi0_paligemma_libero_90_full_finetune",
    "pi0/pi0_paligemma_libero_spatial_full_finetune",
    "pi0/pi0_paligemma_libero_object_full_finetune",
    "pi0/pi0_paligemma_libero_goal_full_finetune",
    "pi0/pi0_paligemma_aloha_full_train",
    "pi0/pi0_paligemma_ur3_full_train",
    "pi0/pi0_paligemma_aloha+ur_full_train",
)


def fluxvla_file(name: str, size: Size) -> Tree:
    """Returns the sections of one file; no two share a list, and the caller may change them."""
    return json.loads(json.dumps(_sections(name, size)))


def _sections(name: str, size: Size) -> Tree:
    policy, _, rest = name.partition("/")
    if "aloha+ur" in rest:
        return mixed(size)
    if "aloha" in rest or "ur3" in rest:
        return real(*((ALOHA, AGILEX) if "aloha" in rest else (UR3, CHEM)), size)
    suite = rest.removeprefix(f"{policy}_paligemma_").partition("_full")[0].partition("_lora")[0]
    if "lora" in rest:
        return libero(policy, suite, size, start=PI05, kind="DDPTrainRunner", **LORA)
    start = PALIGEMMA if rest.endswith("full_train") else PI05 if policy == "pi05" else PI0
    return libero(policy, suite, size, start=start)
