"""The gradient of an optimiser step, accumulated over this process's micro-batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from flux_core.errors import DataError
from flux_core.models import FlowDraws, flow_mask

from .config.runner import TrainRunner
from .config.tree import TrainConfig
from .distributed.parallel import gradients_kept_local
from .distributed.ranks import Ranks
from .loading.batches import PeerLostDataError
from .loading.train_data import TrainData
from .metrics.throughput import counted_flops, peak_flops
from .micro_batch import Batch, to_device, trim_prompts
from .policy_loss import LossParts, rows_of, step_draws
from .state import TrainState


def autocast(runner: TrainRunner, device: torch.device) -> torch.autocast:
    """The precision of the run's forward passes."""
    enabled = runner.enable_mixed_precision_training
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


class Gradients:
    """Computes the gradient of a state's next step.

    Attributes:
        flops_per_step: floating point operations of a step in this process, counted in the first
            one; None where the device's peak is unknown or the network is compiled.
    """

    def __init__(
        self, config: TrainConfig, data: TrainData, state: TrainState, ranks: Ranks
    ) -> None:
        self._config, self._data, self._state, self._ranks = config, data, state, ranks
        self._device = ranks.device
        self.flops_per_step: int | None = None

    def compute(self, micro_batches: Sequence[Mapping[str, object]]) -> LossParts:
        """Leaves the gradient in the parameters; called by all processes.

        Returns:
            The sums over this process's micro-batches, without gradient.

        Raises:
            PeerLostDataError: another process has no data for this step.
            DataError: no action of the step lies inside its episode.
        """
        batches = [self._on_device(batch) for batch in micro_batches]
        draws = self._draws(len(batches))
        denominator = self._denominator(batches, draws)
        self._state.optimizer.zero_grad(set_to_none=True)
        shape = (len(self._data.dataset.group_names), self._config.model.action_dim)
        loss = torch.zeros((), device=self._device)
        sums, counts = (torch.zeros(shape, device=self._device) for _ in range(2))
        for number, (batch, part) in enumerate(zip(batches, draws, strict=True)):
            with gradients_kept_local(self._state.loss, number + 1 == len(batches)):
                answer = self._forward_and_backward(batch, part, denominator)
            loss += answer.loss.detach()
            sums += answer.sums
            counts += answer.counts
        return LossParts(loss, sums, counts)

    def _on_device(self, batch: Mapping[str, object]) -> Batch:
        # A compiled network would be recompiled for every prompt width.
        is_compiled = self._config.runner.compile
        return to_device(batch if is_compiled else trim_prompts(batch), self._device)

    def _draws(self, num_batches: int) -> list[FlowDraws]:
        """Noise and times of this process's micro-batches."""
        runner = self._config.runner
        draws = step_draws(
            self._config.model,
            seed=runner.seed,
            step=self._state.step,
            samples=self._data.samples_per_step,
            draws_per_sample=runner.num_noise_samples,
        )
        own = [self._data.samples_of(number) for number in range(num_batches)]
        return [
            draws.rows(rows_of(samples, runner.num_noise_samples)).to(self._device)
            for samples in own
        ]

    def _denominator(self, batches: Sequence[Batch], draws: Sequence[FlowDraws]) -> Tensor:
        """What the sum of a process's errors is divided by, so that the loss is their mean.

        The processes' gradients are averaged, so this is the mean count per process.
        """
        counted = [
            flow_mask(self._state.model, batch, part).sum()
            for batch, part in zip(batches, draws, strict=True)
        ]
        total = self._ranks.sum(torch.stack(counted).sum())
        if torch.isnan(total):  # see `shared_reason`
            raise PeerLostDataError
        if total == 0:
            raise DataError(
                f"step {self._state.step + 1}: expected actions that lie inside their episode, got "
                "a batch without any, so there is nothing to learn. Lower window_start_idx or "
                "raise per_device_batch_size"
            )
        return total / self._ranks.world_size

    def _forward_and_backward(
        self, batch: Batch, draws: FlowDraws, denominator: Tensor
    ) -> LossParts:
        def work() -> LossParts:
            with autocast(self._config.runner, self._device):
                answer: LossParts = self._state.loss(batch, draws, denominator)
            answer.loss.backward()
            return answer

        is_compiled = self._config.runner.compile
        if self.flops_per_step is None and not is_compiled and peak_flops(self._device):
            answer, flops = counted_flops(work)
            self.flops_per_step = flops * self._data.accumulation
            return answer
        return work()
