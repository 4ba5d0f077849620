"""What a training run changes step by step: weights, optimiser, average and counters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from flux_core.errors import ConfigError
from flux_core.models import FlowPolicy
from flux_core.models.weights import apply_lora, load_pretrained

from .config.runner import TrainRunner
from .config.tree import TrainConfig
from .distributed.parallel import wrap
from .distributed.ranks import Ranks
from .optimization import WeightAverage, build_optimizer, trained
from .policy_loss import PolicyLoss


class TrainState:
    """The network in training; all of this is in a checkpoint.

    Attributes:
        model: the plain network. With FSDP its parameters are shards.
        loss: the module the training loop calls: `PolicyLoss`, wrapped for the run's processes.
        trained: the trained parameters by name.
        optimizer: AdamW over them.
        average: the moving average of their values, if the run keeps one.
        step: optimiser steps so far, including skipped ones.
        skipped_steps: steps without a finite gradient, which changed nothing.
        skipped_in_a_row: how many of the most recent steps were skipped.
        rewinds: how often the run has gone back to an older checkpoint.
    """

    def __init__(
        self, model: FlowPolicy, runner: TrainRunner, ranks: Ranks, num_groups: int
    ) -> None:
        """Freezes what cannot learn, shards or copies the network, and makes the optimiser.

        Args:
            model: the network on its device, with its LoRA adapters.
            runner: how it is wrapped and optimised.
            ranks: the processes of the run.
            num_groups: robots whose errors are counted separately.

        Raises:
            ConfigError: every parameter is frozen.
        """
        idle = set(model.without_effect())
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name not in idle)
        if not trained(model):
            raise ConfigError(
                "model: expected a parameter to train, got a network whose every parameter is "
                "frozen. Unfreeze a part, or set model.use_lora"
            )
        self.model = model
        self.loss: nn.Module = wrap(PolicyLoss(model, num_groups), runner, ranks)
        self.trained = trained(model)
        self.optimizer = build_optimizer(model, runner)
        self.average = WeightAverage(model, runner.ema_decay) if runner.ema_decay else None
        self.step = self.skipped_steps = self.skipped_in_a_row = self.rewinds = 0

    def set_learning_rate(self, rate: float) -> None:
        """Sets the learning rate of the next update."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def update(self) -> None:
        """Counts a step and applies its gradient to the weights and their average."""
        self.step += 1
        self.skipped_in_a_row = 0
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model, self.step)

    @property
    def deployed_kind(self) -> str:
        """Which weights are deployed: 'average', or 'current' if the run keeps no average."""
        return "current" if self.average is None else "average"

    @contextlib.contextmanager
    def deployed(self) -> Iterator[None]:
        """Inside the context the network has the weights that are deployed.

        The average and the current weights change places, so that no third copy is needed and
        training continues with exactly the weights from before.
        """
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        averages = {} if self.average is None else self.average.weights
        for name, average in averages.items():
            current = self.trained[name].detach().clone()
            self.trained[name].copy_(average)
            average.copy_(current)

    def skip(self) -> None:
        """Counts a step without applying its gradient."""
        self.step += 1
        self.skipped_steps += 1
        self.skipped_in_a_row += 1


def built_model(config: TrainConfig, ranks: Ranks) -> FlowPolicy:
    """The network with random weights, on this process's device."""
    return config.model.build().to(ranks.device)


def initial_state(config: TrainConfig, ranks: Ranks, num_groups: int) -> TrainState:
    """The state of a new run: random or pretrained weights, new adapters, step 0.

    Raises:
        CheckpointError: the pretrained weights cannot be read or do not fit the network.
        ConfigError: every parameter is frozen.
    """
    model, settings = built_model(config, ranks), config.model
    if settings.pretrained_name_or_path is None:
        model.load_parts()
    else:
        load_pretrained(
            model,
            Path(settings.pretrained_name_or_path),
            adapt=settings.pretrained_adapt,
            from_kind=settings.pretrained_from,
        )
    if settings.use_lora:
        apply_lora(model)
    return TrainState(model, config.runner, ranks, num_groups)
