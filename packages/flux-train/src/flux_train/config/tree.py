"""The tree of a training run, and the contradictions no single part can see."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from flux_core.config import bind, load_config
from flux_core.deployment import InferenceRunner, inference_sections
from flux_core.errors import ConfigError
from flux_core.models import PI0FlowMatching, SigLIPViTBackbone
from flux_core.tokenizers import PretrainedTokenizer
from flux_core.transforms import (
    AlohaToPi,
    NormalizeImages,
    NormalizeStatesAndActions,
    ProcessPrompts,
    RelativeActions,
    ResizeImages,
    ResizeImagesWithPad,
    SimpleNormalizeImages,
    TaskPrompter,
)
from flux_data.samples import DistributedRepeatingDataset

from ..validation.validator import Validation, check_validation
from .runner import TrainRunner

logger = logging.getLogger("flux.config")


@dataclass(frozen=True, kw_only=True)
class TrainDataloader:
    """`per_device_batch_size` samples a step and process, made by that many workers.

    Workers are threads, which copy nothing, or processes, where a transform of one's own holds the
    interpreter's lock. Without any, each batch is made when it is asked for.
    """

    dataset: DistributedRepeatingDataset.Config
    per_device_batch_size: int
    per_device_num_workers: int = 0
    worker_type: Literal["thread", "process"] = "thread"

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
    inference: InferenceRunner | Mapping[str, InferenceRunner] | None = None
    validation: Validation | None = None

    def __post_init__(self) -> None:
        if self.validation is not None:
            check_validation(self.validation, self.train_dataloader.dataset)
        for group in self.train_dataloader.dataset.groups().values():
            for dataset in group:
                _check_window(self.model, dataset.action_window_size)
                _check_transforms(self.model, dataset.transforms, "train_dataloader.dataset")
        for inference in inference_sections(self.inference).values():
            _check_inference(self, inference)


def read_train_config(
    path: Path, overrides: Sequence[str]
) -> tuple[TrainConfig, dict[str, object]]:
    """Loads, overrides and binds a config file.

    Returns:
        The bound config and the plain tree it came from.
    """
    tree = load_config(path, overrides)
    return bind_train_config(tree), tree


def bind_train_config(tree: dict[str, Any]) -> TrainConfig:
    """Binds a plain tree; sections that training does not know are refused."""
    sections = dict(tree)
    if sections.get("inference_model") == sections.get("model"):
        sections.pop("inference_model", None)
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
        elif isinstance(transform, NormalizeStatesAndActions):
            dim = transform.action_dim
            if dim is not None and dim != model.action_dim:
                raise ConfigError(
                    f"{where}: NormalizeStatesAndActions pads actions to {dim}, but "
                    f"model.action_in_proj.in_dim is {model.action_dim}"
                )
    is_siglip = isinstance(model.vision_backbone, SigLIPViTBackbone.Config)
    if is_siglip and any(isinstance(t, NormalizeImages) for t in transforms):
        logger.warning(
            "%s: NormalizeImages gives pixels outside [-1, 1], the range that SigLIP and openpi's "
            "checkpoints were trained on; SimpleNormalizeImages gives that",
            where,
        )
    if not any(isinstance(t, SimpleNormalizeImages | NormalizeImages) for t in transforms):
        raise ConfigError(f"{where}: no SimpleNormalizeImages or NormalizeImages in the transforms")


def _check_inference(config: TrainConfig, inference: InferenceRunner) -> None:
    model, groups = config.model, config.train_dataloader.dataset.groups()
    inference.steps_executed(model.n_action_steps)
    robot_side = inference.dataset.transforms
    for transform in robot_side:
        dim = getattr(transform, "action_dim", None)
        if isinstance(transform, NormalizeStatesAndActions) and dim not in (None, model.action_dim):
            logger.warning(
                "inference.dataset.transforms: NormalizeStatesAndActions.action_dim is %d beside a "
                "model of %d (action_in_proj.in_dim); the model's counts",
                dim,
                model.action_dim,
            )
    for dataset in groups[inference.statistics_group(groups)]:
        _check_same_view(dataset.transforms, robot_side)
        _check_same_units(dataset.transforms, inference)


def _check_same_view(trained: Sequence[Any], deployed: Sequence[Any]) -> None:
    """What the robot does to an image and a prompt must be what training did."""
    for kind in (
        ResizeImages,
        ResizeImagesWithPad,
        SimpleNormalizeImages,
        NormalizeImages,
        ProcessPrompts,
    ):
        expected = [_comparable(t) for t in trained if type(t) is kind]
        if kind is NormalizeImages:
            expected = [_first_cameras(t, deployed) for t in expected]
        got = [_comparable(t) for t in deployed if type(t) is kind]
        if expected != got:
            raise ConfigError(
                f"inference.dataset.transforms: {kind.__name__} differs from training: "
                f"expected {expected}, got {got}"
            )
    prompters = [[t for t in side if isinstance(t, TaskPrompter)] for side in (trained, deployed)]
    expected, got = [[(t.use_conversation, t.add_new_line) for t in side] for side in prompters]
    if expected != got:
        raise ConfigError(
            f"inference.dataset.transforms: the prompt differs from training: expected "
            f"{prompters[0]}, got {prompters[1]}"
        )


def _first_cameras(trained: NormalizeImages, deployed: Sequence[Any]) -> NormalizeImages:
    """Without the padded cameras of training, which the robot does not have."""
    count = min((len(t.means) for t in deployed if isinstance(t, NormalizeImages)), default=None)
    return replace(trained, means=trained.means[:count], stds=trained.stds[:count])


def _comparable(transform: Any) -> Any:
    """The tokenizer's path left out: on the robot it lies in the bundle."""
    if isinstance(transform, ProcessPrompts) and isinstance(
        transform.tokenizer, PretrainedTokenizer
    ):
        return replace(transform, tokenizer=PretrainedTokenizer())
    return transform


def _first_joints(transform: Any, count: int) -> Any:
    """Without the padded joints of training, which the robot does not have."""
    if isinstance(transform, RelativeActions):
        return replace(transform, mask=transform.mask[:count])
    return transform


def _check_same_units(trained: Sequence[Any], inference: InferenceRunner) -> None:
    """States and actions must be adapted, normalised and brought back as they were in training."""
    dims = inference.spec.action_dim
    for kind in (AlohaToPi, RelativeActions):
        wanted, got = (
            [_first_joints(t, dims) for t in side if type(t) is kind]
            for side in (trained, inference.dataset.transforms)
        )
        if wanted != got:
            raise ConfigError(
                f"inference.dataset.transforms: {kind.__name__} differs from training: expected "
                f"{wanted}, got {got}"
            )
    for expected in (t for t in trained if isinstance(t, NormalizeStatesAndActions)):
        found = {"inference.denormalize_action": inference.denormalize_action.norm_type}
        for transform in inference.dataset.transforms:
            if isinstance(transform, NormalizeStatesAndActions):
                found["inference.dataset.transforms.NormalizeStatesAndActions"] = (
                    transform.norm_type
                )
        for path, norm_type in found.items():
            if norm_type != expected.norm_type:
                raise ConfigError(
                    f"{path}.norm_type: expected {expected.norm_type!r} as in training, got "
                    f"{norm_type!r}"
                )
