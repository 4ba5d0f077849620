"""GR00T's own transforms: its chat prompt, its images, and rules of normalisation per dimension."""

from .dimension_rules import (
    DimensionRule,
    DimensionRules,
    KeyRule,
    StateKeyRule,
    check_keys,
    normalize_state,
    sine_and_cosine,
)
from .images import LeRobotResizeImages, NvidiaResizeImages
from .prompts import IMAGE_TOKEN, MOST_IMAGES, ProcessPromptsWithImage, prompt_words

__all__ = [
    "IMAGE_TOKEN",
    "MOST_IMAGES",
    "DimensionRule",
    "DimensionRules",
    "KeyRule",
    "LeRobotResizeImages",
    "NvidiaResizeImages",
    "ProcessPromptsWithImage",
    "StateKeyRule",
    "check_keys",
    "normalize_state",
    "prompt_words",
    "sine_and_cosine",
]
