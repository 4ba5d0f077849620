"""Task text to prompt, prompt to tokens (openpi `tokenizer.py`)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..tokenizers import PAD_ID, ByteTokenizer, PretrainedTokenizer, Tokenizer
from .base import Sample
from .roles import Prompter, Tokenization
from .rule import rules

logger = logging.getLogger("flux.prompts")
NUM_BINS = 256


def clean(task: str) -> str:
    """Strips the text and turns underscores and line breaks into spaces; keeps the case."""
    return task.strip().replace("_", " ").replace("\n", " ")


def state_bins(state: NDArray[np.float32]) -> NDArray[np.int64]:
    """Bins of a normalised state on [-1, 1]: below -1 gives -1; 1 and above gives 255."""
    edges = np.linspace(-1.0, 1.0, NUM_BINS + 1)[:-1]
    return np.digitize(state, edges) - 1


@dataclass(frozen=True, kw_only=True)
class TaskPrompter(Prompter):
    """The pi0 prompt for training and robot: the cleaned task and a line break.

    `use_conversation` asks OpenVLA's question instead. FluxVLA uses that by default in training,
    but never on the robot; here openpi's prompt is the default on both sides.
    """

    rules = rules("equal", "the prompt", "use_conversation", "add_new_line")
    use_conversation: bool = False
    add_new_line: bool = True

    def __call__(self, sample: Sample) -> Sample:
        task = clean(sample["task_description"])
        if self.use_conversation:
            prompt = f"In: What action should the robot take to {task}?\nOut:"
        else:
            prompt = task + "\n" * self.add_new_line
        return {**sample, "prompt": prompt}


@dataclass(frozen=True, kw_only=True)
class PreparePromptWithState(Prompter):
    """The pi0.5 prompt: the task and the bins of the normalised state's real dimensions."""

    uses_state = True

    def __call__(self, sample: Sample) -> Sample:
        if "num_state_dims" not in sample:
            raise DataError(
                "PreparePromptWithState: expected a normalised state; put "
                "NormalizeStatesAndActions before it"
            )
        bins = state_bins(sample["states"][: sample["num_state_dims"]])
        words = " ".join(str(value) for value in bins)
        prompt = f"Task: {clean(sample['task_description'])}, State: {words};\nAction: "
        return {**sample, "prompt": prompt}


@dataclass(frozen=True, kw_only=True)
class ProcessPrompts(Tokenization):
    """Tokenises the prompt, right-padded with 0 to `max_len`.

    In training (the sample has `actions`) a longer prompt is an error; on the robot, where acting
    on a cut prompt is better than not acting, it is cut with a warning that shows the lost text.
    """

    rules = rules("equal", "tokens", "tokenizer", "max_len")
    tokenizer: ByteTokenizer | PretrainedTokenizer
    max_len: int = 200

    def for_robot(self, cameras: int, dims: int) -> ProcessPrompts:
        """Drops the tokenizer's path; on the robot it is in the bundle."""
        if not isinstance(self.tokenizer, PretrainedTokenizer):
            return self
        return replace(self, tokenizer=replace(self.tokenizer, model_path=None))

    def process(self, sample: Sample, tokenizer: Tokenizer) -> Sample:
        ids = tokenizer.encode(sample["prompt"])
        if len(ids) > self.max_len and "actions" in sample:
            raise DataError(
                f"ProcessPrompts.max_len: the prompt {sample['prompt']!r} has {len(ids)} tokens, "
                f"expected at most {self.max_len}. Raise max_len or shorten the task"
            )
        if len(ids) > self.max_len:
            logger.warning(
                "prompt of %d tokens cut to max_len=%d; dropped: %r",
                len(ids),
                self.max_len,
                tokenizer.decode(ids[self.max_len :]),
            )
            ids = ids[: self.max_len]
        tokens = np.full(self.max_len, PAD_ID, dtype=np.int64)
        tokens[: len(ids)] = ids
        return {**sample, "lang_tokens": tokens, "lang_masks": np.arange(self.max_len) < len(ids)}
