"""The tree of a training run, and the contradictions no single part can see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_core.config import bind, load_config
from flux_core.errors import ConfigError
from flux_core.inference import InferenceRunner
from flux_core.models import PI0FlowMatching
from flux_core.transforms import (
    NormalizeImages,
    NormalizeStatesAndActions,
    ProcessPrompts,
    ResizeImages,
    SimpleNormalizeImages,
)
from flux_data.repeating_dataset import DistributedRepeatingDataset

from .runner_config import TrainRunner

SECTIONS = ("model", "train_dataloader", "runner", "inference")


@dataclass(frozen=True, kw_only=True)
class TrainDataloader:
    """`per_device_batch_size` samples a step and process, made by that many workers."""

    dataset: DistributedRepeatingDataset.Config
    per_device_batch_size: int
    per_device_num_workers: int = 0

    def __post_init__(self) -> None:
        if self.per_device_batch_size < 1 or self.per_device_num_workers < 0:
            raise ConfigError(
                "per_device_batch_size must be at least 1 and per_device_num_workers at least 0"
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole run."""

    model: PI0FlowMatching.Config
    train_dataloader: TrainDataloader
    runner: TrainRunner
    inference: InferenceRunner | None = None

    def __post_init__(self) -> None:
        for group in self.train_dataloader.dataset.groups().values():
            for dataset in group:
                _check_window(self.model, dataset.action_window_size)
                _check_transforms(self.model, dataset.transforms, "train_dataloader.dataset")
        if self.inference is not None:
            _check_inference(self)


def read_train_config(path: Path, overrides: Sequence[str]) -> tuple[TrainConfig, dict[str, Any]]:
    """Loads, overrides and binds a config file.

    Returns:
        The bound config and the plain tree it came from.
    """
    tree = load_config(path, overrides)
    return bind_train_config(tree), tree


def bind_train_config(tree: dict[str, Any]) -> TrainConfig:
    """Binds a plain tree; sections that training does not know are refused."""
    sections = {key: value for key, value in tree.items() if key not in ("inference_model",)}
    return bind(TrainConfig, sections)


def _check_window(model: PI0FlowMatching.Config, window: int) -> None:
    if model.n_action_steps != window:
        raise ConfigError(
            f"model.n_action_steps: expected {window} "
            f"(train_dataloader.dataset.datasets.action_window_size), got {model.n_action_steps}"
        )


def _check_transforms(model: PI0FlowMatching.Config, transforms: Sequence[Any], where: str) -> None:
    for transform in transforms:
        if isinstance(transform, ResizeImages):
            size = (transform.height, transform.width)
            if size != model.vision_backbone.image_size:
                raise ConfigError(
                    f"{where}: ResizeImages gives {size}, but model.vision_backbone eats "
                    f"{model.vision_backbone.image_size}"
                )
        elif isinstance(transform, ProcessPrompts):
            _check_vocabulary(model, transform, where)
        elif isinstance(transform, NormalizeStatesAndActions):
            dim = transform.action_dim
            if dim is not None and dim != model.action_dim:
                raise ConfigError(
                    f"{where}: NormalizeStatesAndActions pads actions to {dim}, but "
                    f"model.action_in_proj.in_dim is {model.action_dim}"
                )
    if not any(isinstance(t, SimpleNormalizeImages | NormalizeImages) for t in transforms):
        raise ConfigError(f"{where}: no SimpleNormalizeImages or NormalizeImages in the transforms")


def _check_vocabulary(model: PI0FlowMatching.Config, prompts: ProcessPrompts, where: str) -> None:
    if getattr(prompts.tokenizer, "model_path", "") is None:
        raise ConfigError(f"{where}: ProcessPrompts.tokenizer.model_path is missing")
    size = prompts.tokenizer.load().vocab_size
    vocabulary = model.llm_backbone.vocab_size or 0
    if size > vocabulary:
        raise ConfigError(
            f"model.llm_backbone.vocab_size: expected at least {size} (the tokenizer), "
            f"got {vocabulary}"
        )


def _check_inference(config: TrainConfig) -> None:
    inference = config.inference
    assert inference is not None
    horizon = config.model.n_action_steps
    if not 1 <= inference.execute_horizon <= horizon:
        raise ConfigError(
            f"inference.execute_horizon: expected 1 to {horizon} (model.n_action_steps), "
            f"got {inference.execute_horizon}"
        )
    _check_transforms_of_inference(config)


def _check_transforms_of_inference(config: TrainConfig) -> None:
    """What the robot does to an observation must be what training did."""
    assert config.inference is not None
    robot_side = config.inference.dataset.transforms
    for group in config.train_dataloader.dataset.groups().values():
        for dataset in group:
            for kind in (ResizeImages, SimpleNormalizeImages, NormalizeImages, ProcessPrompts):
                trained = [t for t in dataset.transforms if type(t) is kind]
                deployed = [t for t in robot_side if type(t) is kind]
                if trained != deployed:
                    raise ConfigError(
                        f"inference.dataset.transforms: {kind.__name__} differs from training: "
                        f"expected {trained}, got {deployed}"
                    )
