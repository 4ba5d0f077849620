"""For which numbers of cameras and prompt tokens a policy has plans."""

from __future__ import annotations

PROMPT_BUCKETS = (16, 32, 48, 200)
"""Prompts are padded to one of these lengths."""


def prompt_buckets(max_prompt_tokens: int) -> tuple[int, ...]:
    """Returns the prompt lengths that are planned for prompts of at most `max_prompt_tokens`."""
    shorter = (size for size in PROMPT_BUCKETS if size < max_prompt_tokens)
    return (*shorter, max_prompt_tokens)


def variants(num_cameras: int, max_prompt_tokens: int) -> tuple[tuple[int, int], ...]:
    """Returns every pair of present cameras and prompt tokens that is planned."""
    return tuple(
        (cameras, tokens)
        for cameras in range(1, num_cameras + 1)
        for tokens in prompt_buckets(max_prompt_tokens)
    )
