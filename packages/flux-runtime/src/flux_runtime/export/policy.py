"""A checkpoint as the exporter sees it: network, statistics and how it meets its robot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_core.config import bind
from flux_core.errors import ExportError
from flux_core.inference import InferenceRunner
from flux_core.models import PI0FlowMatching
from flux_core.models.checkpoint_file import inference_weights, load_checkpoint, load_weights
from flux_core.norm_stats import NormStats, stats_from_json


@dataclass(frozen=True, kw_only=True)
class TrainedPolicy:
    """Everything of a checkpoint that a bundle carries."""

    model: PI0FlowMatching
    inference: InferenceRunner
    config: Mapping[str, Any]
    norm_stats: Mapping[str, NormStats]
    provenance: Mapping[str, Any]
    training_log: Path | None


def load_policy(checkpoint: Path) -> TrainedPolicy:
    """Reads `checkpoint_epoch_N.pt`."""
    state = load_checkpoint(checkpoint)
    config = state["config"]
    if not config.get("inference"):
        raise ExportError(
            f"{checkpoint}: its config has no `inference` section, so the robot, the cameras and "
            "the tasks are unknown. Add one and train again"
        )
    model = bind(PI0FlowMatching.Config, config["model"], "model").build().eval()
    load_weights(model, inference_weights(state), str(checkpoint))
    return TrainedPolicy(
        model=model,
        inference=bind(InferenceRunner, config["inference"], "inference"),
        config=config,
        norm_stats=stats_from_json(state["norm_stats"]),
        provenance={
            "checkpoint": checkpoint.name,
            "global_step": state["global_step"],
            "epoch": state["epoch"],
        },
        training_log=log if (log := checkpoint.with_name("metrics.jsonl")).is_file() else None,
    )
