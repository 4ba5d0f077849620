"""One table of names: each project's names for the weights, which we name as FluxVLA does."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Literal, get_args

from ...errors import CheckpointError

logger = logging.getLogger("flux.checkpoint")

Format = Literal["openpi", "lerobot", "fluxvla", "huggingface", "flux"]
FORMATS: tuple[Format, ...] = get_args(Format)

VLM = "paligemma_with_expert.paligemma"
EXPERT = "paligemma_with_expert.gemma_expert"
EMBEDDING = "llm_backbone.embed_tokens.weight"
VLM_PARTS = ("vision_backbone.", "projector.", "llm_backbone.")

# Our prefix, openpi's. The first match wins, and is the one that we write.
OPENPI = (
    ("vision_backbone.vision.", f"{VLM}.model.vision_tower."),
    ("projector.projector.", f"{VLM}.model.multi_modal_projector.linear."),
    ("llm_backbone.embed_tokens.", f"{VLM}.lm_head."),
    ("llm_backbone.", f"{VLM}.model.language_model."),
    ("llm_expert.", f"{EXPERT}.model."),
    ("state_proj.projector.", "state_proj."),
    ("action_in_proj.projector.", "action_in_proj."),
    ("action_out_proj.projector.", "action_out_proj."),
    ("action_time_mlp_in.projector.", "action_time_mlp_in."),
    ("action_time_mlp_out.projector.", "action_time_mlp_out."),
    ("time_mlp_in.projector.", "time_mlp_in."),
    ("time_mlp_out.projector.", "time_mlp_out."),
    # As LeRobot wrote them up to 0.3.3, with the module names of transformers before 4.52.
    ("vision_backbone.vision.", f"{VLM}.vision_tower."),
    ("projector.projector.", f"{VLM}.multi_modal_projector.linear."),
    ("llm_backbone.embed_tokens.", f"{VLM}.language_model.lm_head."),
    ("llm_backbone.", f"{VLM}.language_model.model."),
)
# PaliGemma's names on the hub, and those that later versions of transformers write. If there are
# several, we write the first.
HUGGINGFACE = (
    ("vision_backbone.vision.vision_model.", "vision_tower.vision_model."),
    ("vision_backbone.vision.vision_model.", "vision_tower."),
    ("vision_backbone.vision.vision_model.", "model.vision_tower.vision_model."),
    ("vision_backbone.vision.vision_model.", "model.vision_tower."),
    ("projector.projector.", "multi_modal_projector.linear."),
    ("projector.projector.", "model.multi_modal_projector.linear."),
    ("llm_backbone.", "language_model.model."),
    ("llm_backbone.", "model.language_model."),
)

# The same embedding under a second name; a file with both must have equal values.
TIED = {
    "openpi": (f"{VLM}.model.language_model.embed_tokens.weight",),
    "lerobot": (f"model.{VLM}.model.language_model.embed_tokens.weight",),
    "huggingface": ("lm_head.weight", "language_model.lm_head.weight"),
}
# Stored but never read: the expert neither reads nor writes tokens.
UNUSED = {
    "openpi": (f"{EXPERT}.lm_head.weight",),
    "lerobot": (f"model.{EXPERT}.lm_head.weight",),
    "fluxvla": ("llm_expert.embed_tokens.weight",),
    "flux": (f"unused.{EXPERT}.lm_head.weight",),
}


# LeRobot up to 0.3.3 kept the statistics of its training data among the weights.
STATISTICS = ("normalize_inputs.", "normalize_targets.", "unnormalize_outputs.")


def recognise(names: Collection[str], *, is_ours: bool, where: str) -> Format:
    """Returns the project that wrote weights with these names.

    Raises:
        CheckpointError: no known project did.
    """

    def any_starts_with(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in names)

    if any_starts_with("model.paligemma_with_expert."):
        return "lerobot"
    if any_starts_with("paligemma_with_expert."):
        return "openpi"
    if any_starts_with("llm_backbone."):
        return "flux" if is_ours else "fluxvla"
    if any_starts_with("model.vision_tower.", "vision_tower."):
        return "huggingface"
    raise CheckpointError(
        f"{where}: expected weights of {', '.join(FORMATS)}, got tensors like "
        f"{', '.join(sorted(names)[:3])}"
    )


def to_ours(name: str, form: Format) -> str | None:
    """Returns our name for a foreign weight; None if there is none."""
    if form in ("flux", "fluxvla"):
        return name
    if form == "lerobot":
        return to_ours(name.removeprefix("model."), "openpi") if name.startswith("model.") else None
    for ours, theirs in OPENPI if form == "openpi" else HUGGINGFACE:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return None


def from_ours(name: str, form: Format) -> str:
    """Returns a project's name for one of our weights.

    Raises:
        CheckpointError: that project has no such weight.
    """
    if form in ("flux", "fluxvla"):
        return name
    if form == "lerobot":
        return f"model.{from_ours(name, 'openpi')}"
    for ours, theirs in OPENPI if form == "openpi" else HUGGINGFACE:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise CheckpointError(f"{name}: expected a weight that {form}'s checkpoints contain")


def our_names(names: Collection[str], form: Format) -> tuple[dict[str, str], list[str]]:
    """Sorts foreign names.

    Returns:
        Our name -> theirs, and the unknown names. Tied copies and unused weights are in neither.
    """
    skipped = {*TIED.get(form, ()), *UNUSED.get(form, ())}
    found: dict[str, str] = {}
    unknown: list[str] = []
    statistics = [name for name in names if form == "lerobot" and name.startswith(STATISTICS)]
    if statistics:
        logger.warning(
            "%d statistics of LeRobot's training data are ignored (%s, ...): flux computes its "
            "own from the dataset",
            len(statistics),
            statistics[0],
        )
    skipped |= set(statistics)
    for name in names:
        ours = None if name in skipped else to_ours(name, form)
        if ours is not None:
            found[ours] = name
        elif name not in skipped:
            unknown.append(name)
    copies = [name for name in TIED.get(form, ()) if name in names]
    if EMBEDDING not in found and copies:
        found[EMBEDDING] = copies[0]
    return found, unknown


def model_kind(names: Collection[str] | Mapping[str, object]) -> str:
    """Returns `pi0`, `pi05` or `paligemma` (no policy); `names` are our names."""
    if any(name.startswith("time_mlp_in.") for name in names):
        return "pi05"
    if any(name.startswith("action_time_mlp_in.") for name in names):
        return "pi0"
    return "paligemma"
