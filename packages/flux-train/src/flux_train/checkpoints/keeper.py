"""What a run does with checkpoints: saves its state, removes old ones, resumes from one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from flux_core.config import bind, unbind
from flux_core.deployment import inference_sections
from flux_core.errors import CheckpointError
from flux_core.models import FlowPolicy
from flux_core.models.weights import (
    apply_lora,
    deployed_weights,
    load_checkpoint,
    load_weights,
    save_adapter,
)
from flux_core.norm_stats import stats_to_json

from ..config.robot_checks import data_facts
from ..config.runner import FSDPTrainRunner
from ..config.tree import TrainConfig
from ..distributed.parallel import (
    full_state,
    full_tensors,
    is_sharded,
    load_full_state,
    load_sharded_state,
    sharded_state,
)
from ..distributed.ranks import Ranks
from ..failed_writes import FailedWrites
from ..loading.train_data import TrainData
from ..metrics.window import LogWindow
from ..optimization import WeightAverage
from ..state import TrainState, built_model
from .checks import Setup, check_resumable, warn_of_changes
from .files import Place, remove_old, rewinds_after, save_checkpoint
from .robot_units import summary_for_robots
from .sharded import (
    SUFFIX,
    consolidate,
    fill_from_shards,
    holds_average,
    load_plain,
    save_shards,
)


def write_checkpoint(work_dir: Path, name: str, content: Mapping[str, Any], keep: int) -> Path:
    """Writes a checkpoint in every form that is deployed, all with the same weights.

    Args:
        work_dir: the run's directory.
        name: `checkpoint_epoch_N` or `checkpoint_step_N`.
        content: as `save_checkpoint` takes it.
        keep: how many of the newest checkpoints to keep.

    Returns:
        `NAME.pt`; beside it are `NAME.safetensors` and, of a run with adapters, `NAME_adapter`.

    Raises:
        CheckpointError: one of them cannot be written.
    """
    path = save_checkpoint(work_dir, name, content, keep)
    config = bind(FlowPolicy.Config, content["config"]["model"], "model")
    if not config.use_lora:
        return path
    with torch.device("meta"):
        model = config.build()
        apply_lora(model)
    adapter = work_dir / f"{name}_adapter"
    try:
        save_adapter(model, adapter, deployed_weights(content))
    except (OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{adapter}: cannot be written ({reason})") from error
    return path


class CheckpointKeeper:
    """Writes a run's checkpoints to its work dir and reads them back, as files or as shards."""

    def __init__(
        self, config: TrainConfig, work_dir: Path, ranks: Ranks, failed: FailedWrites
    ) -> None:
        """Reads and writes nothing yet; `failed` remembers the checkpoints that are missing."""
        self.config, self.work_dir = config, work_dir
        self._ranks, self._failed = ranks, failed

    def save(
        self,
        name: str,
        state: TrainState,
        data: TrainData,
        window: LogWindow,
        *,
        must: bool = False,
    ) -> Path | None:
        """Writes a checkpoint; called by all processes.

        A full disk does not stop training unless this checkpoint `must` be written.

        Returns:
            Its path, or None if it could not be written.

        Raises:
            CheckpointError: it must be written and could not be.
        """
        plain = self._plain(state, data, window)
        if self._writes_shards:
            problem = self._save_shards(name, state, plain, is_last=must)
        else:
            problem = self._save_whole(name, state, plain)
        problem = self._ranks.from_main(problem)
        if problem is None:
            is_folder = self._writes_shards and not must
            return self.work_dir / f"{name}{SUFFIX if is_folder else '.pt'}"
        if must:
            earlier = len(self._failed.checkpoints)
            more = f"; {earlier} earlier checkpoints could not be written either"
            raise CheckpointError(f"{problem}{more if earlier else ''}")
        self._failed.add_checkpoint(problem)
        return None

    def resume(self, path: Path, data: TrainData, window: LogWindow) -> TrainState:
        """Reads a checkpoint; called by all processes. Moves `data` and `window` to its step.

        The pretrained weights that the run started from are not read again.

        Raises:
            CheckpointError: it is damaged, or of another network or other statistics.
        """
        is_folder = path.is_dir()
        saved = load_plain(path) if is_folder else load_checkpoint(path)
        check_resumable(path, saved, self.config, data.dataset.stats)
        has_average = holds_average(path) if is_folder else saved["ema"] is not None
        if self._ranks.is_main:
            setup = self._setup(data)
            warn_of_changes(path, saved, self.config, setup, has_average=has_average)
        read = self._read_shards if is_folder else self._read_whole
        state = read(path, saved, len(data.dataset.group_names), has_average=has_average)
        state.step, state.skipped_steps = saved["global_step"], saved["skipped_steps"]
        if self._ranks.is_main:
            state.rewinds = rewinds_after(self.work_dir, Place(saved.get("rewinds", 0), state.step))
        if tuple(saved["norm_stats"]) == data.dataset.group_names:
            window.load_state_dict(saved["window"], self._ranks)
        data.load_state_dict(saved["position"])
        return state

    @property
    def _writes_shards(self) -> bool:
        runner = self.config.runner
        is_wanted = isinstance(runner, FSDPTrainRunner) and runner.sharded_checkpoints
        return is_wanted and is_sharded(runner, self._ranks)

    def _plain(self, state: TrainState, data: TrainData, window: LogWindow) -> dict[str, Any]:
        """What a checkpoint holds besides weights, their average and the optimiser."""
        return {
            "global_step": state.step,
            "rewinds": state.rewinds,
            "setup": self._setup(data).as_data(),
            "epoch": state.step // data.steps_per_epoch,
            "position": data.state_dict(),
            "window": window.state_dict(self._ranks),
            "skipped_steps": state.skipped_steps,
            "config": unbind(self.config),
            "norm_stats": stats_to_json(data.dataset.stats),
            "data_facts": {
                name: facts.as_data() for name, facts in data_facts(data.dataset).items()
            },
            "data_summary": self._data_summary(data),
        }

    def _data_summary(self, data: TrainData) -> dict[str, dict[str, object]]:
        """Returns the summary in the main process, which writes it."""
        if not self._ranks.is_main:
            return {}
        robots = inference_sections(self.config.inference)
        pictures = self.config.runner.camera_pictures
        return summary_for_robots(data.dataset, robots, pictures=pictures)

    def _setup(self, data: TrainData) -> Setup:
        return Setup(
            runner=type(self.config.runner).__name__,
            world_size=self._ranks.world_size,
            accumulation=data.accumulation,
            samples_per_step=data.samples_per_step,
            total_steps=data.total_steps,
        )

    def _save_whole(self, name: str, state: TrainState, plain: dict[str, Any]) -> str | None:
        """The main process writes one file; returns what went wrong there."""
        weights, optimizer = full_state(state.model, state.optimizer)
        average = full_tensors(state.average.weights) if state.average is not None else None
        if not self._ranks.is_main:
            return None
        tensors = {"model": weights, "ema": average, "optimizer": optimizer}
        return self._write(name, tensors | plain)

    def _save_shards(
        self, name: str, state: TrainState, plain: dict[str, Any], *, is_last: bool
    ) -> str | None:
        """All processes write a folder, and the main one a file at the end of the run.

        Returns:
            What went wrong.
        """
        folder = self.work_dir / f"{name}{SUFFIX}"
        tensors = sharded_state(state.model, state.optimizer)
        if state.average is not None:
            tensors["ema"] = dict(state.average.weights)
        try:
            save_shards(folder, tensors, plain, self._ranks)
            if not self._ranks.is_main:
                return None
            remove_old(self.work_dir, self.config.runner.max_checkpoints)
            return self._write(name, consolidate(folder)) if is_last else None
        except CheckpointError as error:
            return str(error)

    def _write(self, name: str, content: dict[str, Any]) -> str | None:
        """Writes the file and the adapter's folder; returns what went wrong."""
        try:
            write_checkpoint(self.work_dir, name, content, self.config.runner.max_checkpoints)
        except CheckpointError as error:
            return str(error)
        return None

    def _read_whole(
        self, path: Path, saved: Mapping[str, Any], num_groups: int, *, has_average: bool
    ) -> TrainState:
        model = self._model_with_adapters()
        # Before sharding, so that a weight that does not fit is named, and the new state's average
        # is made of the saved one.
        load_weights(model, saved["model"], str(path))
        if has_average:
            model.load_state_dict(saved["ema"], strict=False)
        state = TrainState(model, self.config.runner, self._ranks, num_groups)
        weights, optimizer = saved["model"], saved["optimizer"]
        load_full_state(model, state.optimizer, weights, optimizer, self._ranks)
        return state

    def _read_shards(
        self, path: Path, saved: Mapping[str, Any], num_groups: int, *, has_average: bool
    ) -> TrainState:
        """`saved` holds no tensors: each process reads its shards from the folder."""
        model = self._model_with_adapters()
        state = TrainState(model, self.config.runner, self._ranks, num_groups)
        tensors = sharded_state(model, state.optimizer)
        if state.average is not None and has_average:
            tensors["ema"] = state.average.weights
        fill_from_shards(path, tensors, self._ranks)
        load_sharded_state(model, state.optimizer, tensors)
        if state.average is not None and not has_average:
            state.average = WeightAverage(model, state.average.decay)
        return state

    def _model_with_adapters(self) -> FlowPolicy:
        model = built_model(self.config, self._ranks)
        if self.config.model.use_lora:
            apply_lora(model)
        return model
