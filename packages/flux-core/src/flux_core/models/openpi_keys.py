"""The one name map between our weights (FluxVLA's names) and openpi's PyTorch checkpoints."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..errors import CheckpointError

VLM = "paligemma_with_expert.paligemma"
OURS_TO_OPENPI: tuple[tuple[str, str], ...] = (
    ("vision_backbone.vision.", f"{VLM}.model.vision_tower."),
    ("projector.projector.", f"{VLM}.model.multi_modal_projector.linear."),
    ("llm_backbone.embed_tokens.", f"{VLM}.lm_head."),
    ("llm_backbone.", f"{VLM}.model.language_model."),
    ("llm_expert.", "paligemma_with_expert.gemma_expert.model."),
    ("state_proj.projector.", "state_proj."),
    ("action_in_proj.projector.", "action_in_proj."),
    ("action_out_proj.projector.", "action_out_proj."),
    ("action_time_mlp_in.projector.", "action_time_mlp_in."),
    ("action_time_mlp_out.projector.", "action_time_mlp_out."),
    ("time_mlp_in.projector.", "time_mlp_in."),
    ("time_mlp_out.projector.", "time_mlp_out."),
)
UNUSED_BY_US = ("paligemma_with_expert.gemma_expert.lm_head.weight",)
"""Stored by openpi and read by nobody: the expert has no vocabulary."""


def to_openpi(name: str) -> str:
    """Translates one of our parameter names."""
    for ours, theirs in OURS_TO_OPENPI:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise CheckpointError(f"{name}: no openpi name is known for this parameter")


def from_openpi(weights: Mapping[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """Picks and renames the weights of a model with parameters `names`.

    Raises:
        CheckpointError: a weight is missing, or one is left over.
    """
    wanted = {name: to_openpi(name) for name in names}
    missing = sorted(theirs for theirs in wanted.values() if theirs not in weights)
    left_over = sorted(set(weights) - set(wanted.values()) - set(UNUSED_BY_US))
    if missing or left_over:
        raise CheckpointError(
            f"openpi checkpoint: {len(missing)} weights missing {missing[:3]}, "
            f"{len(left_over)} unexpected {left_over[:3]}"
        )
    return {ours: weights[theirs] for ours, theirs in wanted.items()}
