"""Settings of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from flux_core.config import check_at_least
from flux_core.errors import ConfigError
from flux_data.samples import DictCollator

from .recipe import RecipeName

Schedule = Literal["constant", "linear-warmup+cosine-decay", "step-based"]

AT_LEAST_ONE = (
    "num_noise_samples",
    "gradient_accumulation_steps",
    "save_epoch_interval",
    "save_iter_interval",
    "log_interval",
    "max_checkpoints",
    "max_skipped_steps",
    "max_epochs",
    "max_steps",
    "num_threads",
    "decay_steps",
)
POSITIVE = ("learning_rate", "max_grad_norm")
SHARES = ("warmup_ratio", "min_lr_ratio")


@dataclass(frozen=True, kw_only=True)
class VLAMetric:
    """Where metrics go besides `metrics.jsonl`, which is always written."""

    active_trackers: tuple[Literal["jsonl", "wandb", "tensorboard"], ...] = ("jsonl",)
    wandb_project: str = "flux"
    wandb_entity: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrainRunner:
    """How a run is trained; exactly one of `max_epochs` and `max_steps` is given.

    Attributes:
        num_noise_samples: noise and time draws trained per encoded observation.
        ema_decay: decay of the moving average of the weights; 0 keeps no average.
        recipe: whose settings these are, apart from those that were stated; nothing follows from
            it. `recipes.full_runner(recipe=...)` and `--cfg-options recipe=...` fill them in.
        warmup_ratio: share of all steps in which the learning rate rises.
        warmup_steps: the number of these steps instead.
        decay_steps: the step at which the cosine ends; None for the run's last.
        min_lr_ratio: the cosine ends at this share of `learning_rate`.
        learning_rate_steps: for 'step-based', ((0.0, rate), (0.5, rate), ...): each rate applies
            from that share of the run.
        gradient_accumulation_steps: batches per process in an optimiser step.
        save_iter_interval: saves every so many steps, besides the ends of epochs.
        camera_pictures: whether checkpoints contain small pictures of each camera, with which a run
            on a robot finds cameras that are swapped or turned.
        max_skipped_steps: the run stops when more consecutive steps than this have no finite
            gradient.
    """

    collator: DictCollator
    recipe: RecipeName | None = None
    max_epochs: int | None = None
    max_steps: int | None = None
    learning_rate: float = 5e-5
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = 1.0
    lr_scheduler_type: Schedule = "linear-warmup+cosine-decay"
    warmup_ratio: float = 0.03
    warmup_steps: int | None = None
    decay_steps: int | None = None
    min_lr_ratio: float = 0.1
    learning_rate_steps: tuple[tuple[float, float], ...] = ()
    gradient_accumulation_steps: int = 1
    ema_decay: float = 0.0
    num_noise_samples: int = 1
    enable_mixed_precision_training: bool = True
    mixed_precision_dtype: Literal["bf16"] = "bf16"
    save_epoch_interval: int = 1
    save_iter_interval: int | None = None
    max_checkpoints: int = 2
    log_interval: int = 10
    metric: VLAMetric = field(default_factory=VLAMetric)
    enable_gradient_checkpointing: bool = False
    compile: bool = False
    max_skipped_steps: int = 10
    camera_pictures: bool = True
    num_threads: int | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        if (self.max_epochs is None) == (self.max_steps is None):
            raise ConfigError(
                "max_epochs: expected exactly one of max_epochs and max_steps, got "
                f"{self.max_epochs} and {self.max_steps}. {self._one_duration}"
            )
        self._check_numbers()
        check_at_least(1, self, *AT_LEAST_ONE)
        self._check_schedule()

    def num_warmup_steps(self, total_steps: int) -> int:
        """The number of optimiser steps in which the learning rate rises, in a run of so many."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return round(self.warmup_ratio * total_steps)

    @property
    def _one_duration(self) -> str:
        if self.max_epochs is None:
            return "Set one of them"
        return "To train by epochs, add runner.max_steps=none; by steps, runner.max_epochs=none"

    def _check_numbers(self) -> None:
        """Refuses NaN too: every comparison with it is false."""
        for name in POSITIVE:
            if not 0.0 < (value := getattr(self, name)) < math.inf:
                raise ConfigError(f"{name}: expected a positive number, got {value}")
        if not 0.0 <= self.weight_decay < math.inf:
            raise ConfigError(f"weight_decay: expected at least 0, got {self.weight_decay}")
        for name in SHARES:
            if not 0.0 <= (value := getattr(self, name)) <= 1.0:
                raise ConfigError(f"{name}: expected a number from 0 to 1, got {value}")
        if not 0.0 <= self.ema_decay < 1.0:
            raise ConfigError(f"ema_decay: expected 0 <= decay < 1, got {self.ema_decay}")
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ConfigError(f"betas: expected two numbers 0 <= beta < 1, got {self.betas}")

    def _check_schedule(self) -> None:
        if (self.warmup_steps or 0) < 0:
            raise ConfigError(f"warmup_steps: expected at least 0, got {self.warmup_steps}")
        if self.decay_steps is not None and self.decay_steps <= (self.warmup_steps or 0):
            raise ConfigError(
                f"decay_steps: expected more than the {self.warmup_steps} warmup_steps, got "
                f"{self.decay_steps}"
            )
        steps = self.learning_rate_steps
        is_stepped = self.lr_scheduler_type == "step-based"
        if is_stepped != bool(steps) or (steps and (steps[0][0] != 0 or sorted(steps) != [*steps])):
            raise ConfigError(
                "learning_rate_steps: expected ((0.0, rate), (share, rate), ...) in ascending "
                f"order for lr_scheduler_type='step-based' and () for any other, got {steps} for "
                f"{self.lr_scheduler_type!r}"
            )


@dataclass(frozen=True, kw_only=True)
class SingleTrainRunner(TrainRunner):
    """One process, one device."""


@dataclass(frozen=True, kw_only=True)
class DDPTrainRunner(TrainRunner):
    """A copy of the network in every process."""


@dataclass(frozen=True, kw_only=True)
class FSDPTrainRunner(TrainRunner):
    """The network sharded over the processes; `no-shard` keeps a copy in each.

    With `sharded_checkpoints` each process writes its part of a checkpoint into a folder (see
    `checkpoints/sharded.py`); a run's last checkpoint is also written as one file.
    """

    sharding_strategy: Literal["no-shard", "full-shard", "hybrid-shard", "shard-grad-op"] = (
        "hybrid-shard"
    )
    sharded_checkpoints: bool = False
