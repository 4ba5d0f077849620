"""The sections of a tiny GR00T with three cameras and delays of up to 3 steps, for `aloha`."""

from __future__ import annotations

from typing import Any

from flux_core.config import unbind
from flux_core.robots import robot_spec
from flux_core.tokenizers import ByteTokenizer
from flux_core.transforms import IMAGE_TOKEN, prompt_words

SPEC = robot_spec("aloha")
CAMERAS = SPEC.cameras
PATCHES, SIDE = 4, 28
PADDED = 16
"""Dimensions of state and actions, of which the robot has 14."""
SHORT_PROMPT = 40
"""Tokens of the graphs that its tests export beside those for any prompt."""


def gr00t_sections() -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the sections `model` and `inference`."""
    tokenizer = ByteTokenizer(words=prompt_words(len(CAMERAS)))
    width, heads = 32, dict(num_attention_heads=2, attention_head_dim=16)
    vision = dict(hidden_size=36, intermediate_size=48, num_hidden_layers=1, image_size=SIDE)
    model = dict(
        type="GR00TFlowMatching",
        n_action_steps=8,
        num_inference_steps=4,
        vision_backbone=dict(
            type="SigLIPViTBackbone", vision_config=dict(vision, num_attention_heads=2)
        ),
        projector=dict(type="LinearProjector", in_dim=36, out_dim=width),
        llm_backbone=dict(
            type="Qwen3Backbone",
            hidden_size=width,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=12,
            vocab_size=tokenizer.vocab_size,
        ),
        vl_self_attention=dict(type="VLSelfAttention", num_layers=1, **heads),
        dit=dict(type="DiT", num_layers=2, output_dim=24, cross_attention_dim=width, **heads),
        image_places=dict(
            type="ImagePlaces", token_id=tokenizer.encode(IMAGE_TOKEN)[-1], label_tokens=1
        ),
        max_state_dim=PADDED,
        max_action_dim=PADDED,
        hidden_size=24,
        num_future_tokens=2,
        num_positions=12,
        num_embodiments=1,
        rtc_training_config=dict(max_delay=4),
    )
    transforms = [
        dict(type="NormalizeStatesAndActions", norm_type="mean_std", state_dim=PADDED),
        dict(
            type="ProcessPromptsWithImage",
            tokenizer=unbind(tokenizer),
            max_len=96,
            num_images=len(CAMERAS),
            image_tokens=PATCHES,
        ),
        dict(type="LeRobotResizeImages", height=SIDE, width=SIDE),
        dict(type="SimpleNormalizeImages"),
    ]
    inference = dict(
        type="AlohaInferenceRunner",
        task_descriptions={"0": "push the box"},
        dataset=dict(type="ObservationTransforms", img_keys=list(CAMERAS), transforms=transforms),
        denormalize_action=dict(type="DenormalizeActions", norm_type="mean_std"),
    )
    return model, inference
