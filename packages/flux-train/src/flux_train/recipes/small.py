"""A small pi0.5 for the simulated ALOHA: from scratch, in minutes, on two CPU cores.

The classes are those of the 3.3 B model; only the sizes differ, and the image backbone is
convolutional (see `flux_core.models.conv_backbone` for why).
"""

from __future__ import annotations

from typing import Any

from flux_core.tokenizers import FIRST_NUMBER_ID, NUMBERS_PER_TABLE, ByteTokenizer

from .runners import collator

IMAGE_SIZE = {"height": 96, "width": 128}
CAMERAS = ("cam_high",)
ACTION_DIM = 14
ACTIONS_PER_TOKEN = 4
TASK = "transfer the cube"
# A prompt of few tokens: its fixed words are one each, and every joint's bins have their own.
WORDS = ("Task:", " transfer", " the", " cube", ", State:", ";\nAction: ")
MIN_RANGE = 0.06  # rad: several joints hardly move in this task
PROMPT_LENGTH = 32
TOKENIZER = ByteTokenizer(words=WORDS, number_tables=ACTION_DIM)


def small_pi05_model(*, action_horizon: int, width: int = 128, depth: int = 2) -> dict[str, Any]:
    """The network: `depth` joint layers of `width`."""
    gemma = dict(
        type="ConditionGemmaModel",
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=depth,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=32,
    )
    return dict(
        type="PI05FlowMatching",
        vision_backbone=dict(
            type="ConvBackbone",
            image_height=IMAGE_SIZE["height"],
            image_width=IMAGE_SIZE["width"],
            hidden_size=64,
        ),
        number_tokens=dict(
            first=FIRST_NUMBER_ID, tables=TOKENIZER.number_tables, size=NUMBERS_PER_TABLE
        ),
        projector=dict(type="LinearProjector", in_dim=64, out_dim=width),
        llm_backbone=dict(gemma, vocab_size=TOKENIZER.vocab_size),
        llm_expert=dict(gemma, use_adarms=True, adarms_cond_dim=width),
        proj_width=width,
        n_action_steps=action_horizon,
        actions_per_token=ACTIONS_PER_TOKEN,
        action_in_proj=dict(
            type="LinearProjector", in_dim=ACTIONS_PER_TOKEN * ACTION_DIM, out_dim=width
        ),
        action_out_proj=dict(
            type="LinearProjector", in_dim=width, out_dim=ACTIONS_PER_TOKEN * ACTION_DIM
        ),
        max_action_dim=ACTION_DIM,
        num_steps=10,
    )


def shared_transforms() -> list[dict[str, Any]]:
    """What training and the robot both do to an observation."""
    tokenizer = dict(type="ByteTokenizer", words=list(WORDS), number_tables=TOKENIZER.number_tables)
    return [
        dict(type="NormalizeStatesAndActions", norm_type="quantile"),
        dict(type="PreparePromptWithState"),
        dict(type="ProcessPrompts", tokenizer=tokenizer, max_len=PROMPT_LENGTH),
        dict(type="ResizeImages", **IMAGE_SIZE),
        dict(type="SimpleNormalizeImages"),
    ]


def small_aloha_sim_data(
    *, data_root_path: str, action_horizon: int, batch_size: int, num_workers: int = 1
) -> dict[str, Any]:
    """Batches from demonstrations of the simulated ALOHA."""
    inputs = dict(
        type="ProcessParquetInputs",
        parquet_keys=["observation.state", "actions"],
        video_keys=[f"observation.images.{camera}" for camera in CAMERAS],
        name_mappings={"observation.state": ["states"]},
    )
    dataset = dict(
        type="ParquetDataset",
        data_root_path=data_root_path,
        transforms=[inputs, *shared_transforms()],
        action_window_size=action_horizon,
        action_key="action",
        window_start_idx=0,
    )
    return dict(
        per_device_batch_size=batch_size,
        per_device_num_workers=num_workers,
        dataset=dict(
            type="DistributedRepeatingDataset",
            statistic_name="aloha-sim",
            statistic_keys=["observation.state", "action"],
            name_mappings={"observation.state": ["proprio"], "action": ["action"]},
            min_range=MIN_RANGE,
            datasets=dataset,
        ),
    )


def small_runner(**settings: Any) -> dict[str, Any]:
    """Optimisation of a small policy from scratch; `settings` override."""
    defaults = dict(
        type="SingleTrainRunner",
        learning_rate=3e-3,
        weight_decay=1e-4,
        warmup_ratio=0.03,
        ema_decay=0.995,
        num_noise_samples=4,
        # The tensors are too small to share; the second core has the data loader.
        num_threads=1,
        # On CPUs without bf16 units half precision is an emulation, ten times slower.
        enable_mixed_precision_training=False,
        collator=collator(),
    )
    return {**defaults, **settings}


def small_aloha_sim_inference(*, execute_horizon: int) -> dict[str, Any]:
    """How the policy is run in simulation."""
    return dict(
        type="AlohaSimInferenceRunner",
        task_descriptions={"1": TASK},
        dataset=dict(
            type="PrivateInferenceDataset",
            img_keys=list(CAMERAS),
            transforms=shared_transforms(),
        ),
        denormalize_action=dict(type="DenormalizePrivateAction", norm_type="quantile"),
        execute_horizon=execute_horizon,
    )
