"""The losses and errors since the last line of the metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..distributed.ranks import Ranks


class LogWindow:
    """Sums over steps; saved with a checkpoint, so that a resumed run writes the same lines."""

    def __init__(self, num_groups: int, action_dim: int, device: torch.device) -> None:
        self._shape, self._device = (num_groups, action_dim), device
        self.clear()

    def clear(self) -> None:
        """Starts a new window."""
        self.steps, self.loss = 0, 0.0
        self.sums = torch.zeros(self._shape, device=self._device)
        self.counts = torch.zeros(self._shape, device=self._device)

    def add(self, loss: float, sums: Tensor, counts: Tensor) -> None:
        """Adds a step: its loss over all processes, and this process's squared errors."""
        self.steps += 1
        self.loss += loss
        self.sums += sums
        self.counts += counts

    def means(self, groups: Sequence[str], ranks: Ranks) -> dict[str, Any]:
        """The mean loss overall, per robot, and per dimension of the robot; called by all ranks.

        Empty if every step was skipped.
        """
        if not self.steps:
            return {}
        sums, counts = ranks.sum(self.sums.clone()).cpu(), ranks.sum(self.counts.clone()).cpu()
        by_robot: dict[str, float] = {}
        by_dimension: dict[str, list[float]] = {}
        for index, name in enumerate(groups):
            seen = counts[index] > 0
            if seen.any():
                by_robot[name] = float(sums[index].sum() / counts[index].sum())
                by_dimension[name] = (sums[index][seen] / counts[index][seen]).tolist()
        loss = self.loss / self.steps
        return {"loss": loss, "loss_by_robot": by_robot, "loss_by_dimension": by_dimension}

    def state_dict(self, ranks: Ranks) -> dict[str, Any]:
        """The sums over all processes; called by all ranks."""
        return {
            "steps": self.steps,
            "loss": self.loss,
            "sums": ranks.sum(self.sums.clone()).cpu(),
            "counts": ranks.sum(self.counts.clone()).cpu(),
        }

    def load_state_dict(self, state: Mapping[str, Any], ranks: Ranks) -> None:
        """Loads what `state_dict` returned; the main process takes all of the sums."""
        self.steps, self.loss = state["steps"], state["loss"]
        if ranks.is_main:
            self.sums, self.counts = (state[key].to(self._device) for key in ("sums", "counts"))
