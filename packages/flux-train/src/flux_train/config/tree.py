"""The config of a training run, and the checks that compare its sections with each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flux_core.config import apply_overrides, bind, check_at_least, load_config
from flux_core.deployment import InferenceRunner, inference_sections
from flux_core.errors import ConfigError
from flux_core.models import FlowPolicy
from flux_core.transforms import ModelInputs, Pipeline
from flux_data.samples import DistributedRepeatingDataset

from ..validation.validator import Validation, check_validation
from .recipe import recipe_overrides
from .robot_checks import check_robot_sections
from .runner import TrainRunner


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
        check_at_least(1, self, "per_device_batch_size")
        check_at_least(0, self, "per_device_num_workers")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The config of a whole run."""

    model: FlowPolicy.Config
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
        inference_sections(self.inference)  # refuses two sections for one robot
        check_robot_sections(self.model, self.train_dataloader.dataset, self.inference)


def read_train_config(
    path: Path, overrides: Sequence[str]
) -> tuple[TrainConfig, dict[str, object]]:
    """Loads, overrides and binds a config file; a chosen recipe is written out.

    Returns:
        The bound config and the plain tree it came from.
    """
    tree = load_config(path)
    tree = apply_overrides(tree, recipe_overrides(tree, overrides))
    tree.pop("recipe", None)
    return bind_train_config(tree), tree


def bind_train_config(tree: dict[str, Any]) -> TrainConfig:
    """Binds a plain tree; refuses sections that training does not know."""
    sections = dict(tree)
    if sections.get("inference_model") == sections.get("model"):
        sections.pop("inference_model", None)
    return bind(TrainConfig, sections)


def _check_window(model: FlowPolicy.Config, window: int, where: str) -> None:
    if model.n_action_steps != window:
        raise ConfigError(
            f"model.n_action_steps: expected {window} ({where}.action_window_size), got "
            f"{model.n_action_steps}"
        )


def _model_inputs(model: FlowPolicy.Config) -> ModelInputs:
    return ModelInputs(
        image_size=model.image_size,
        action_dim=model.action_dim,
        pixel_range=model.pixel_range,
        needs_pixel_range=model.needs_pixel_range,
        state_dim=model.state_dim,
        num_embodiments=model.embodiments,
    )
