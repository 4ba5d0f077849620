"""GR00T's own transforms: its chat prompt, its images, and rules of normalisation per dimension."""

from .augmentation import NvidiaJitterColors, NvidiaShiftImages
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
from .rotations import ROTATION_TYPES, rotation_6d, rotation_type_of

__all__ = [
    "IMAGE_TOKEN",
    "MOST_IMAGES",
    "ROTATION_TYPES",
    "DimensionRule",
    "DimensionRules",
    "KeyRule",
    "LeRobotResizeImages",
    "NvidiaJitterColors",
    "NvidiaResizeImages",
    "NvidiaShiftImages",
    "ProcessPromptsWithImage",
    "StateKeyRule",
    "check_keys",
    "normalize_state",
    "prompt_words",
    "rotation_6d",
    "rotation_type_of",
    "sine_and_cosine",
]
