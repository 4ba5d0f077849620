"""The config of a training run, and the checks that compare its sections with each other."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flux_core.config import bind, load_config
from flux_core.deployment import InferenceRunner, inference_sections
from flux_core.errors import ConfigError, RobotError
from flux_core.models import PI0FlowMatching, SigLIPViTBackbone
from flux_core.robots import RobotSpec, limits_in_force, robot_spec, robot_spec_names
from flux_core.transforms import ModelInputs, Normalization, Pipeline
from flux_data.samples import DistributedRepeatingDataset

from ..validation.validator import Validation, check_validation
from .runner import TrainRunner

logger = logging.getLogger("flux.config")


@dataclass(frozen=True, kw_only=True)
class TrainDataloader:
    """`per_device_batch_size` samples per step and process, made by `per_device_num_workers`.

    Workers are threads, which copy nothing, or processes, which help when a custom transform holds
    the interpreter's lock. Without workers, each batch is made when it is needed.
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
    """The config of a whole run."""

    model: PI0FlowMatching.Config
    train_dataloader: TrainDataloader
    runner: TrainRunner
    inference: InferenceRunner | Mapping[str, InferenceRunner] | None = None
    validation: Validation | None = None

    def __post_init__(self) -> None:
        if self.validation is not None:
            check_validation(self.validation, self.train_dataloader.dataset)
        for place, _, dataset in self.train_dataloader.dataset.members():
            where = f"train_dataloader.dataset.{place}"
            _check_window(self.model, dataset.action_window_size, where)
            pipeline = Pipeline(dataset.transforms, where=f"{where}.transforms")
            pipeline.check_model(_model_inputs(self.model))
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
    """Binds a plain tree; refuses sections that training does not know."""
    sections = dict(tree)
    if sections.get("inference_model") == sections.get("model"):
        sections.pop("inference_model", None)
    return bind(TrainConfig, sections)


def _check_window(model: PI0FlowMatching.Config, window: int, where: str) -> None:
    if model.n_action_steps != window:
        raise ConfigError(
            f"model.n_action_steps: expected {window} ({where}.action_window_size), got "
            f"{model.n_action_steps}"
        )


def _model_inputs(model: PI0FlowMatching.Config) -> ModelInputs:
    is_siglip = isinstance(model.vision_backbone, SigLIPViTBackbone.Config)
    return ModelInputs(
        image_size=model.vision_backbone.image_size,
        action_dim=model.action_dim,
        pixel_range=(-1.0, 1.0) if is_siglip else None,
    )


def _check_inference(config: TrainConfig, inference: InferenceRunner) -> None:
    model, groups = config.model, config.train_dataloader.dataset.groups()
    inference.steps_executed(model.n_action_steps)
    _warn_of_wider_limits(inference.spec)
    for normalize in inference.pipeline.steps(Normalization):
        if normalize.action_dim not in (None, model.action_dim):
            logger.warning(
                "inference.dataset.transforms: %s.action_dim is %d beside a model of %d "
                "(action_in_proj.in_dim); the model's counts",
                *(type(normalize).__name__, normalize.action_dim, model.action_dim),
            )
    for dataset in groups[inference.statistics_group(groups)]:
        _check_same_as_training(dataset.pipeline, inference)


def _warn_of_wider_limits(spec: RobotSpec) -> None:
    """Warns at the start of training if the robot's driver would refuse the bundle."""
    if spec.name in robot_spec_names():
        try:
            limits_in_force(robot_spec(spec.name), spec)
        except RobotError as error:
            logger.warning(
                "inference.robot: it is not the %r that is known here, whose driver will refuse "
                "the bundle: %s",
                spec.name,
                error,
            )


def _check_same_as_training(trained: Pipeline, inference: InferenceRunner) -> None:
    """Refuses an inference section whose transforms differ from those of training."""
    cameras, dims = len(inference.dataset.img_keys), inference.spec.action_dim
    sides = [side.for_robot(cameras, dims) for side in (trained, inference.pipeline)]
    if differences := sides[0].difference(sides[1]):
        raise ConfigError(f"inference.dataset.transforms: {'; '.join(map(str, differences))}")
    normalize, found = trained.maybe(Normalization), inference.denormalize_action.norm_type
    if normalize is not None and found != normalize.norm_type:
        raise ConfigError(
            f"inference.denormalize_action.norm_type: expected {normalize.norm_type!r} as in "
            f"training, got {found!r}"
        )
