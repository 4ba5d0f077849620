"""Checks that need the data and the tokenizer on disk, made before the first step."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

import numpy as np

from flux_core.errors import ConfigError, DataError
from flux_core.tokenizers import ByteTokenizer, PretrainedTokenizer
from flux_core.transforms import Normalization, Pipeline, Prompter, Sample, Tokenization, apply
from flux_data.samples import (
    DimensionRange,
    DistributedRepeatingDataset,
    ParquetDataset,
    rounded_up,
)

from .robot_checks import check_robots_with_data
from .tree import TrainConfig

logger = logging.getLogger("flux.train")


def check_vocabulary(config: TrainConfig) -> None:
    """Refuses a tokenizer with more token ids than the network has embeddings."""
    for place, _, dataset in config.train_dataloader.dataset.members():
        for index, step in enumerate(dataset.transforms):
            if isinstance(step, Tokenization):
                where = f"train_dataloader.dataset.{place}.transforms.{index}.tokenizer"
                _check_tokenizer(step.tokenizer, config.model.vocab_size, where)


def _check_tokenizer(
    tokenizer: ByteTokenizer | PretrainedTokenizer, vocabulary: int, where: str
) -> None:
    if isinstance(tokenizer, PretrainedTokenizer) and tokenizer.model_path is None:
        raise ConfigError(
            f"{where}.model_path: expected a local file or directory with the network's tokenizer, "
            "got None"
        )
    size = tokenizer.load().vocab_size
    if size > vocabulary:
        raise ConfigError(
            f"model: vocab_size: expected at least {size} ({where}), got {vocabulary}"
        )


def check_data(config: TrainConfig, dataset: DistributedRepeatingDataset) -> None:
    """Refuses prompts that do not fit, and action dimensions that would never be trained."""
    for member in dataset.datasets:
        _check_prompts(member)
        _check_action_dims(config, member)
        _warn_of_other_values(member)
    _check_way_back(dataset)
    check_robots_with_data(config.model, config.inference, dataset)


def range_warnings(
    ranges: Iterable[DimensionRange], min_range: float, *, is_held_out: bool = False
) -> Iterator[str]:
    """Yields a line for each dimension whose normalised values no network can learn.

    Args:
        ranges: of the training data, or of the held-out data.
        min_range: the `train_dataloader.dataset.min_range` that they were normalised with.
        is_held_out: whether the ranges are those of the held-out data.
    """
    data = "validation" if is_held_out else "train_dataloader"
    ways = "hold out other episodes" if is_held_out else "leave out these frames or this dimension"
    for each in (each for each in ranges if not each.is_sensible):
        yield (
            f"{data}.dataset: {each}. Set train_dataloader.dataset.min_range="
            f"{rounded_up(each.sensible_min_range):g} (now {min_range:g}), which widens every "
            f"dimension that moves less, or {ways}"
        )


def _check_prompts(dataset: ParquetDataset) -> None:
    pipeline = dataset.pipeline
    prompt_steps = [*pipeline.steps(Prompter), *pipeline.steps(Tokenization)]
    for root, task, state_dim in _tasks(dataset):
        # Every joint beyond its range: the longest numbers that a state can print.
        sample: Sample = {
            "task_description": task,
            "states": np.full(state_dim, 2.0, np.float32),
            "num_state_dims": state_dim,
            "actions": None,
        }
        try:
            apply(prompt_steps, sample)
        except DataError as error:
            raise DataError(f"{root}: {error}") from error


def _warn_of_other_values(dataset: ParquetDataset) -> None:
    if dataset.pipeline.maybe(Normalization) is None:
        return
    if found := dataset.pipeline.not_binary(dataset.stats):
        logger.warning(
            "%s: %s: above 0.5 is learned as 1 and anything else as 0, and the robot gets 0 or 1",
            *(dataset.config.roots[0], found),
        )


def _check_way_back(dataset: DistributedRepeatingDataset) -> None:
    """Checks custom transforms that need real data, with one sample per kind of dataset."""
    tried: list[Pipeline] = []
    places = [place for place, _, _ in dataset.config.members()]
    for place, member in zip(places, dataset.datasets, strict=True):
        if not len(member) or member.pipeline in tried or not member.pipeline.needs_sample:
            continue
        tried.append(member.pipeline)
        where = f"train_dataloader.dataset.{place}.transforms"
        sample = member.untransformed(0, np.random.default_rng(0))
        Pipeline(member.transforms, where=where).check_sample(sample, member.stats)


def _tasks(dataset: ParquetDataset) -> Iterator[tuple[str, str, int]]:
    """Yields the directory, the text and the number of state dimensions of every task."""
    for part in dataset.parts:
        for task in part.source.tasks.values():
            yield str(part.source.root), task, part.state_dim


def _check_action_dims(config: TrainConfig, dataset: ParquetDataset) -> None:
    trained = config.model.loss_action_dim
    dims = max(part.action_dim for part in dataset.parts)
    if trained is not None and trained < dims:
        raise ConfigError(
            f"model.loss_action_dim: expected at least {dims} (the actions of "
            f"{dataset.config.roots[0]}), got {trained}: dimensions {trained} to {dims - 1} would "
            "never be trained"
        )
