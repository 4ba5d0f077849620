"""Common sets of transforms."""

from __future__ import annotations

from ..tokenizers import ByteTokenizer, PretrainedTokenizer
from .actions import NormalizeStatesAndActions, PadKeyToDim
from .base import Transform
from .gr00t import NvidiaResizeImages, ProcessPromptsWithImage
from .images import ResizeImagesWithPad, SimpleNormalizeImages
from .prompts import PreparePromptWithState, ProcessPrompts, TaskPrompter


def pi_observation(
    tokenizer: ByteTokenizer | PretrainedTokenizer,
    *,
    prompt_tokens: int,
    state_in_prompt: bool,
    state_dim: int,
    image_size: tuple[int, int],
) -> tuple[Transform, ...]:
    """Returns what openpi's policies do to a robot's observation.

    Args:
        tokenizer: the config of the tokenizer.
        prompt_tokens: the prompt's length in tokens, including padding.
        state_in_prompt: whether to use pi0.5's prompt, which contains the state, or pi0's.
        state_dim: the size that the state is padded to.
        image_size: height and width in pixels.
    """
    height, width = image_size
    return (
        NormalizeStatesAndActions(norm_type="mean_std"),
        PreparePromptWithState() if state_in_prompt else TaskPrompter(),
        ProcessPrompts(tokenizer=tokenizer, max_len=prompt_tokens),
        PadKeyToDim(keys=("states",), dim=state_dim),
        ResizeImagesWithPad(height=height, width=width),
        SimpleNormalizeImages(),
    )


def gr00t_observation(
    tokenizer: ByteTokenizer | PretrainedTokenizer,
    *,
    prompt_tokens: int,
    num_images: int,
    image_tokens: int,
    state_dim: int,
    image_size: tuple[int, int],
) -> tuple[Transform, ...]:
    """Returns what NVIDIA's GR00T does to a robot's observation.

    Args:
        tokenizer: the config of the tokenizer.
        prompt_tokens: the prompt's length in tokens, images and padding included.
        num_images: the number of cameras.
        image_tokens: tokens per image.
        state_dim: the size that the state is padded to.
        image_size: height and width in pixels.
    """
    height, width = image_size
    return (
        NormalizeStatesAndActions(norm_type="min_max", state_dim=state_dim),
        ProcessPromptsWithImage(
            tokenizer=tokenizer,
            max_len=prompt_tokens,
            num_images=num_images,
            image_tokens=image_tokens,
        ),
        NvidiaResizeImages(height=height, width=width),
        SimpleNormalizeImages(),
    )
