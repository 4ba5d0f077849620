"""A checkpoint as the exporter sees it: network, statistics and how it meets its robot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from flux_core.config import bind, unbind
from flux_core.errors import ExportError
from flux_core.inference import InferenceRunner, InferenceSections, inference_sections
from flux_core.models import PI0FlowMatching
from flux_core.models.checkpoint_file import inference_weights, load_checkpoint, load_weights
from flux_core.norm_stats import NormStats, stats_from_json
from flux_core.tokenizers import PretrainedTokenizer
from flux_core.transforms import ProcessPrompts


@dataclass(frozen=True, kw_only=True)
class TrainedPolicy:
    """Everything of a checkpoint that a bundle carries."""

    model: PI0FlowMatching
    inference: InferenceRunner
    config: Mapping[str, Any]
    norm_stats: Mapping[str, NormStats]
    provenance: Mapping[str, Any]
    training_log: Path | None


def load_policy(checkpoint: Path, robot: str | None = None) -> TrainedPolicy:
    """Reads `checkpoint_epoch_N.pt` for one robot.

    Raises:
        ExportError: it says nothing of that robot, or of several and none is named.
    """
    # Read where it is needed: a full-size checkpoint with its optimiser is larger than memory.
    state = load_checkpoint(checkpoint, mmap=True)
    config = state["config"]
    if not config.get("inference"):
        raise ExportError(
            f"{checkpoint}: its config has no `inference` section, so the robot, the cameras and "
            "the tasks are unknown. Add one and train again"
        )
    runners = inference_sections(bind(InferenceSections, config["inference"], "inference"))
    if robot is None and len(runners) > 1:
        raise ExportError(f"{checkpoint}: expected --robot, one of {', '.join(runners)}, got none")
    inference = runners.get(robot or next(iter(runners)))
    if inference is None:
        raise ExportError(f"{checkpoint}: has no robot {robot!r}. It has: {', '.join(runners)}")
    with torch.device("meta"):
        model = bind(PI0FlowMatching.Config, config["model"], "model").build().eval()
    weights = {name: value.float() for name, value in inference_weights(state).items()}
    load_weights(model, weights, str(checkpoint), assign=True)
    return TrainedPolicy(
        model=model,
        inference=with_tokenizer_beside(inference, checkpoint.with_name("tokenizer")),
        # The bundle is of this robot alone.
        config={**config, "inference": unbind(inference)},
        norm_stats=stats_from_json(state["norm_stats"]),
        provenance={
            "checkpoint": checkpoint.name,
            "global_step": state["global_step"],
            "epoch": state["epoch"],
        },
        training_log=log if (log := checkpoint.with_name("metrics.jsonl")).is_file() else None,
    )


def with_tokenizer_beside(inference: InferenceRunner, directory: Path) -> InferenceRunner:
    """A tokenizer without a path is the one that training wrote beside the checkpoint."""
    transforms = tuple(
        replace(t, tokenizer=PretrainedTokenizer(model_path=str(directory)))
        if isinstance(t, ProcessPrompts) and t.tokenizer == PretrainedTokenizer()
        else t
        for t in inference.dataset.transforms
    )
    return replace(inference, dataset=replace(inference.dataset, transforms=transforms))
