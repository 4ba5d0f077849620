"""Held-out validation: the loss with fixed draws, and the error of sampled actions."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flux_core.errors import ConfigError
from flux_core.models import (
    FlowPolicy,
    draw_flow,
    flow_errors,
    flow_mask,
    network_facts,
    sample_actions,
)
from flux_core.norm_stats import NormStats
from flux_core.rtc import RTCConfig
from flux_data.samples import (
    DictCollator,
    DistributedRepeatingDataset,
    ParquetDataset,
    batches_ahead,
)

from ..failed_writes import FailedWrites
from .held_out import HeldOutGroup, plain
from .predictions import EpisodePrediction, prediction_path, save_predictions

logger = logging.getLogger("flux.validation")

NUM_SHOWN_FRAMES = 8
"""Frames of the episode in the report, per robot."""
MAX_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class Validation:
    """When and on what a run is validated.

    Attributes:
        dataset: the held-out data. Its groups are named as in training and normalised with
            training's statistics.
        interval_steps: steps between validations.
        num_batches: batches for the loss, shared evenly by the groups.
        num_action_samples: frames per group for which actions are sampled.
        seed: of frames, noise and times, which are the same each time.
    """

    dataset: DistributedRepeatingDataset.Config
    interval_steps: int = 500
    num_batches: int = 16
    num_action_samples: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("interval_steps", "num_batches", "num_action_samples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, got {getattr(self, name)}")


def check_validation(validation: Validation, training: DistributedRepeatingDataset.Config) -> None:
    """Refuses held-out data that is prepared differently from the training data.

    Raises:
        ConfigError: a group is not in training, or a window or transform differs.
    """
    trained = training.groups()
    for place, group, member in validation.dataset.members():
        where = f"validation.dataset.{place}"
        if group not in trained:
            raise ConfigError(
                f"validation.dataset.datasets.{group}: expected one of training's groups "
                f"({', '.join(trained)}), got {group!r}. Its statistics are needed; name the "
                "group by its key in `datasets`, or by statistic_name"
            )
        if _made(member) not in [_made(other) for other in trained[group]]:
            name = _difference(member, trained[group][0])
            raise ConfigError(
                f"{where}.{name}: expected the same as in training, "
                f"{getattr(plain(trained[group][0]), name)}, got {getattr(plain(member), name)}"
            )
        roots = {root for other in trained[group] for root in other.roots}
        for root in (root for root in member.roots if root in roots):
            logger.warning("%s: %s is also in the training set, so it is not held out", where, root)


MAKING = (
    "action_window_size",
    "action_key",
    "state_key",
    "window_start_idx",
    "supervise_terminal_padding",
    "transforms",
)


def _made(dataset: ParquetDataset.Config) -> list[Any]:
    """Everything a sample depends on except its directory."""
    return [getattr(plain(dataset), name) for name in MAKING]


def _difference(one: ParquetDataset.Config, other: ParquetDataset.Config) -> str:
    pairs = zip(MAKING, _made(one), _made(other), strict=True)
    return next(name for name, a, b in pairs if a != b)


class ErrorSums(NamedTuple):
    """Sums and counts of the unmasked squared errors per action dimension, each (A,)."""

    errors: NDArray[np.float64]
    counts: NDArray[np.float64]

    @property
    def loss(self) -> float:
        """Their mean."""
        return float(self.errors.sum() / max(self.counts.sum(), 1.0))

    @property
    def by_dimension(self) -> NDArray[np.float64]:
        """Their mean per dimension."""
        return _ratio(self.errors, self.counts)


class Validator:
    """Holds the held-out data, and which of its samples are used."""

    def __init__(
        self,
        config: Validation,
        stats: Mapping[str, NormStats],
        collator: DictCollator,
        device: torch.device,
        *,
        batch_size: int,
        work_dir: Path,
        failed: FailedWrites | None = None,
    ) -> None:
        """`stats` are training's, by group; the network takes `batch_size` samples at once."""
        self._failed = failed or FailedWrites()
        self.config, self.device = config, device
        self._collator, self._batch_size, self._work_dir = collator, batch_size, work_dir
        keys = config.dataset.statistic_keys or ()
        configs = config.dataset.groups()
        unknown = [name for name in configs if name not in stats]
        if unknown:
            raise ConfigError(
                f"validation.dataset.datasets.{unknown[0]}: expected a group with training "
                f"statistics ({', '.join(stats)}), got one without"
            )
        self.groups = [
            HeldOutGroup(name, members, keys, stats[name]) for name, members in configs.items()
        ]
        count = max(config.num_batches * batch_size // len(self.groups), 1)
        self._of_loss = {g.name: g.spread(count, config.seed) for g in self.groups}
        count = config.num_action_samples
        self._of_actions = {g.name: g.spread(count, config.seed + 1) for g in self.groups}
        self._episodes = {g.name: g.episode(NUM_SHOWN_FRAMES) for g in self.groups}

    @torch.no_grad()
    def run(self, model: FlowPolicy, step: int, *, write: bool = True) -> dict[str, Any]:
        """Validates the network in its current state, under the caller's autocast.

        Does not touch training's random numbers, and leaves the network in the mode it was in.

        Args:
            model: the plain network, even if DDP wraps it.
            step: the training step.
            write: whether this process writes WORK_DIR/validation/step_N.npz.

        Returns:
            `loss`, `loss_by_robot`, `loss_by_dimension` and `action_error`: the value of
            `validation` in metrics.jsonl.
        """
        with evaluation(model):
            sums = {group.name: self._errors(model, group) for group in self.groups}
            action_error = {group.name: self._action_error(model, group) for group in self.groups}
            predictions = [self._prediction(model, group) for group in self.groups]
        if write:
            path = prediction_path(self._work_dir, step)
            with self._failed.tolerated(path.parent):
                save_predictions(path, predictions)
        return {
            "loss": self._overall(sums),
            "loss_by_robot": {name: each.loss for name, each in sums.items()},
            "loss_by_dimension": {
                group.name: _numbers(sums[group.name].by_dimension[: group.action_dim])
                for group in self.groups
            },
            "action_error": action_error,
        }

    def _errors(self, model: FlowPolicy, group: HeldOutGroup) -> ErrorSums:
        index, dims = self._of_loss[group.name], model.config.action_dim
        generator = torch.Generator().manual_seed(self.config.seed)
        draws = draw_flow(model.config, len(index), dims, generator=generator)
        total = torch.zeros(2, dims, dtype=torch.float64, device=self.device)
        for rows, batch in self._batches(group, index):
            part = draws.rows(rows).to(self.device)
            mask = flow_mask(model, batch, part)
            error = flow_errors(model, batch, part).float() * mask
            total += torch.stack([error.double().sum(dim=(0, 1)), mask.double().sum(dim=(0, 1))])
        return ErrorSums(*total.cpu().numpy())

    def _overall(self, sums: Mapping[str, ErrorSums]) -> float:
        """The loss of batches that mix the groups as training does, instead of evenly."""
        weights = self.config.dataset.sampling_weights
        total = count = 0.0
        for group in self.groups:
            share = weights[group.name] if weights else len(group)
            scale = share / len(self._of_loss[group.name])
            total += scale * sums[group.name].errors.sum()
            count += scale * sums[group.name].counts.sum()
        return float(total / max(count, 1e-12))

    def _action_error(
        self, model: FlowPolicy, group: HeldOutGroup
    ) -> dict[str, list[float | None]]:
        """Mean absolute errors per dimension, in robot units, over real recorded actions.

        `after_prefix` is there if the network was trained with prefixes: the error of the first
        step after the longest of them, which consists of recorded actions.
        """
        index = self._of_actions[group.name]
        _, recorded, masks = group.recorded(index)

        def mean_errors(chunks: NDArray[np.float32], steps: slice) -> list[float | None]:
            error = np.abs(chunks - recorded) * masks[..., None]
            count = np.full(group.action_dim, masks[:, steps].sum())
            return _numbers(_ratio(error[:, steps].sum(axis=(0, 1)), count))

        free = self._predict(model, group, index)
        parts = {"mean_abs": slice(None), "first_step": slice(0, 1), "last_step": slice(-1, None)}
        errors = {name: mean_errors(free, steps) for name, steps in parts.items()}
        if delay := network_facts(model.config).rtc_delays[-1]:
            continued = self._predict(model, group, index, prefix_len=delay)
            errors["after_prefix"] = mean_errors(continued, slice(delay, delay + 1))
        return errors

    def _predict(
        self,
        model: FlowPolicy,
        group: HeldOutGroup,
        index: NDArray[np.int64],
        prefix_len: int = 0,
    ) -> NDArray[np.float32]:
        """Sampled chunks (N, H, A) in robot units, whose first `prefix_len` steps are recorded."""
        shape = (len(index), model.config.n_action_steps, model.config.action_dim)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(self.config.seed + 2))
        dims = min(group.action_dim, model.config.loss_action_dim or group.action_dim)
        rtc = RTCConfig(prefix_len=prefix_len)
        unsmoothed = self._unsmoothed(model, group)
        chunks: list[NDArray[np.float32]] = []
        for rows, batch in self._batches(group, index):
            cache = model.prefix(
                batch["images"], batch["image_masks"], batch["lang_tokens"], batch["lang_masks"]
            )
            start = noise[rows].to(self.device)
            actions = sample_actions(
                model,
                batch["states"],
                cache,
                start,
                action_dims=dims,
                rtc=rtc,
                previous=batch["actions"],
                embodiments=batch.get("embodiment_ids"),
                unsmoothed=unsmoothed,
            )
            chunks.append(actions.float().cpu().numpy())
        states, _, _ = group.recorded(index)
        return group.in_robot_units(np.concatenate(chunks), states)

    def _unsmoothed(self, model: FlowPolicy, group: HeldOutGroup) -> Tensor | None:
        """Marks the network's actions that are 0 or 1; None if none is."""
        mask = group.binary_mask
        if mask is None:
            return None
        padding = model.config.action_dim - len(mask)
        return torch.from_numpy(np.pad(mask, (0, padding))).to(self.device)

    def _prediction(self, model: FlowPolicy, group: HeldOutGroup) -> EpisodePrediction:
        episode = self._episodes[group.name]
        _, recorded, masks = group.recorded(episode.index)
        return EpisodePrediction(
            group=group.name,
            episode=episode.episode,
            fps=group.fps,
            dimensions=group.dimensions,
            cameras=episode.cameras,
            first_step=episode.first_step,
            frames=episode.frames,
            predicted=self._predict(model, group, episode.index),
            recorded=recorded,
            masks=masks,
            actions=episode.actions,
            pictures=episode.pictures,
        )

    def _batches(
        self, group: HeldOutGroup, index: NDArray[np.int64]
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yields positions in `index` and their samples on the device, `batch_size` at a time."""
        starts = range(0, len(index), self._batch_size)
        draws = [index[start : start + self._batch_size].tolist() for start in starts]
        threads = min(len(os.sched_getaffinity(0)), MAX_THREADS)
        batches = batches_ahead(group, draws, self._collator, threads)
        for start, batch in zip(starts, batches, strict=True):
            tensors = {
                key: torch.as_tensor(values).to(self.device)
                for key, values in batch.items()
                if isinstance(values, np.ndarray) and values.dtype.kind in "bfiu"
            }
            yield torch.arange(start, start + len(tensors["actions"])), tensors


@contextlib.contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Puts all modules in evaluation mode while the context lasts, then restores their modes."""
    trained = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in trained:
            module.training = True


def _ratio(total: NDArray[Any], count: NDArray[Any]) -> NDArray[np.float64]:
    """The mean; NaN where the count is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total, np.float64) / count


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    """As JSON values: None for NaN."""
    return [float(value) if np.isfinite(value) else None for value in values]
