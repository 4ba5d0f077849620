"""Transforms: frozen dataclasses `sample -> sample` on numpy, used in training and on the robot.

A sample is a plain dict. The keys that transforms use:

    images       (C, height, width, 3) uint8, or (C, 3, height, width) float32 once normalised
    image_masks  (C,) bool, False = this camera is missing
    states       (state_dim,) float32         actions       (H, action_dim) float32
    stats        {feature: FeatureStats}      action_masks  (H,) bool
    task_description, prompt   str           lang_tokens, lang_masks   (L,)
    rng          the sample's own random generator, only in training

A transform returns a new dict and never writes into the arrays it was given.
"""

from .actions import (
    DenormalizeActions,
    NormalizeStatesAndActions,
    PadKeyToDim,
    RelativeActions,
)
from .aloha import AlohaToPi
from .augmentation import AugmentImages, DropStates
from .base import ModelInputs, Sample, Transform, apply
from .difference import Difference
from .gr00t import (
    IMAGE_TOKEN,
    ROTATION_TYPES,
    LeRobotResizeImages,
    NvidiaJitterColors,
    NvidiaResizeImages,
    NvidiaShiftImages,
    ProcessPromptsWithImage,
    StateKeyRule,
    prompt_words,
    rotation_type_of,
)
from .images import (
    NormalizeImages,
    ResizeImages,
    ResizeImagesWithPad,
    SimpleNormalizeImages,
    resize_to,
)
from .pipeline import Pipeline
from .presets import gr00t_observation, pi_observation
from .prompts import PreparePromptWithState, ProcessPrompts, TaskPrompter
from .roles import (
    Augmentation,
    DatasetInputs,
    ImageNormalization,
    ImageResize,
    Normalization,
    Padding,
    Prompter,
    StateAugmentation,
    Tokenization,
)
from .rule import Rule, rules
from .units import ActionInverse, UnitStep

__all__ = [
    "IMAGE_TOKEN",
    "ROTATION_TYPES",
    "ActionInverse",
    "AlohaToPi",
    "AugmentImages",
    "Augmentation",
    "DatasetInputs",
    "DenormalizeActions",
    "Difference",
    "DropStates",
    "ImageNormalization",
    "ImageResize",
    "LeRobotResizeImages",
    "ModelInputs",
    "Normalization",
    "NormalizeImages",
    "NormalizeStatesAndActions",
    "NvidiaJitterColors",
    "NvidiaResizeImages",
    "NvidiaShiftImages",
    "PadKeyToDim",
    "Padding",
    "Pipeline",
    "PreparePromptWithState",
    "ProcessPrompts",
    "ProcessPromptsWithImage",
    "Prompter",
    "RelativeActions",
    "ResizeImages",
    "ResizeImagesWithPad",
    "Rule",
    "Sample",
    "SimpleNormalizeImages",
    "StateKeyRule",
    "StateAugmentation",
    "Tokenization",
    "TaskPrompter",
    "Transform",
    "UnitStep",
    "apply",
    "gr00t_observation",
    "pi_observation",
    "prompt_words",
    "resize_to",
    "rotation_type_of",
    "rules",
]
