"""GR00T's prompt: a chat of one message, which holds the places of all images before the task."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from ...config import check_at_least
from ...errors import ConfigError, DataError
from ...tokenizers import ByteTokenizer, PretrainedTokenizer, Tokenizer
from ..base import Sample
from ..roles import Tokenization
from ..rule import Rule, rules

logger = logging.getLogger("flux.prompts")

IMAGE_TOKEN, IMAGE_START, IMAGE_END = "<IMG_CONTEXT>", "<img>", "</img>"
BEGINNING = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
ENDING = "<|im_end|>\n<|im_start|>assistant\n"
MOST_IMAGES = 9
"""With ten, labels would have different lengths, and a missing camera could not be left out."""


def label(number: int) -> str:
    """The text before image `number`, counted from 1."""
    return f"<image {number}>"


def prompt_words(num_images: int) -> tuple[str, ...]:
    """Returns the fixed parts of a prompt, each of which can be one token of a `ByteTokenizer`."""
    labels = (label(number) for number in range(1, num_images + 1))
    return (BEGINNING, ENDING, IMAGE_TOKEN, IMAGE_START, IMAGE_END, *labels)


@dataclass(frozen=True, kw_only=True)
class ProcessPromptsWithImage(Tokenization):
    """Writes the prompt of a task and `num_images` images, and tokenises it.

    Every camera has its place, also one that is missing in this sample: the network masks it. The
    task is used as it is; special tokens in it count as such, except the image's own, which is
    refused. A prompt is left-padded to `max_len`, as NVIDIA and FluxVLA do; the side changes
    nothing in our network. In training (the sample has `actions`) a longer prompt is an error; on
    the robot the task loses its end, with a warning that shows the lost text.

    Attributes:
        num_images: the number of cameras.
        image_tokens: tokens per image, as many as the vision backbone gives.
        task_in_brackets: write the task as `['task']`, as LeRobot trains and NVIDIA's policy class
            asks. NVIDIA and FluxVLA train with the plain task.
    """

    rules: ClassVar[Mapping[str, Rule]] = {
        **rules("equal", "tokens", "tokenizer", "max_len", "image_tokens", "task_in_brackets"),
        **rules("checked", "the number of cameras", "num_images"),
    }
    writes_prompt = True
    tokenizer: ByteTokenizer | PretrainedTokenizer
    max_len: int = 600
    num_images: int = 2
    image_tokens: int = 256
    task_in_brackets: bool = False

    def __post_init__(self) -> None:
        check_at_least(1, self, "max_len", "num_images", "image_tokens")
        if self.num_images > MOST_IMAGES:
            raise ConfigError(
                f"num_images: expected at most {MOST_IMAGES} cameras, got {self.num_images}"
            )

    def with_cameras(self, kept: Sequence[int]) -> ProcessPromptsWithImage:
        return replace(self, num_images=len(kept))

    def for_robot(self, cameras: int, dims: int) -> ProcessPromptsWithImage:
        """Drops the tokenizer's path, which on the robot is in the bundle, and padded cameras."""
        tokenizer = self.tokenizer
        if isinstance(tokenizer, PretrainedTokenizer):
            tokenizer = replace(tokenizer, model_path=None)
        return replace(self, num_images=min(cameras, self.num_images), tokenizer=tokenizer)

    def write_prompt(self, sample: Sample) -> Sample:
        return {**sample, "prompt": self.text_of(sample["task_description"])}

    def text_of(self, task: str) -> str:
        """Returns the whole text.

        Raises:
            DataError: the task holds the token that stands for images.
        """
        if IMAGE_TOKEN in task:
            raise DataError(
                f"task: expected words, got {task!r:.80}, which holds {IMAGE_TOKEN}, the place of "
                "an image. Remove it"
            )
        places = IMAGE_START + IMAGE_TOKEN * self.image_tokens + IMAGE_END
        images = "".join(label(number) + places for number in range(1, self.num_images + 1))
        return BEGINNING + images + (str([task]) if self.task_in_brackets else task) + ENDING

    def process(self, sample: Sample, tokenizer: Tokenizer) -> Sample:
        self._check_cameras(sample)
        sample = self.write_prompt(sample)
        ids = tokenizer.encode(sample["prompt"])
        if len(ids) > self.max_len:
            ids = self._shortened(ids, sample, tokenizer)
        missing = self.max_len - len(ids)
        tokens = np.full(self.max_len, tokenizer.pad_id, dtype=np.int64)
        tokens[missing:] = ids
        masks = np.arange(self.max_len) >= missing
        return {**sample, "lang_tokens": tokens, "lang_masks": masks}

    def _check_cameras(self, sample: Sample) -> None:
        cameras = len(sample.get("image_masks", sample.get("images", ())))
        if cameras not in (0, self.num_images):
            raise DataError(
                f"ProcessPromptsWithImage.num_images: expected {cameras} (the sample's cameras), "
                f"got {self.num_images}"
            )

    def _shortened(self, ids: list[int], sample: Sample, tokenizer: Tokenizer) -> list[int]:
        task, excess = sample["task_description"], len(ids) - self.max_len
        problem = (
            f"ProcessPromptsWithImage.max_len: the prompt of {task!r:.200} has {len(ids)} tokens, "
            f"expected at most {self.max_len}. Raise max_len or shorten the task"
        )
        # The task stands between special tokens, so the rest has the same ids without it.
        ending = len(tokenizer.encode(ENDING)) - len(tokenizer.encode(""))
        if "actions" in sample or excess > len(ids) - len(tokenizer.encode(self.text_of(""))):
            raise DataError(problem)
        end = len(ids) - ending
        logger.warning(
            "prompt of %d tokens cut to max_len=%d; dropped: %r",
            *(len(ids), self.max_len, tokenizer.decode(ids[end - excess : end])),
        )
        return ids[: end - excess] + ids[end:]
