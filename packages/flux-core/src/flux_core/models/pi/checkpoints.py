"""Checkpoints of pi0, pi0.5 and PaliGemma: one table of each project's names for the weights.

We name them as FluxVLA does.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from ...errors import CheckpointError
from ..flow.checkpoints import CheckpointFamily, StoredTensor
from .pi0_to_pi05 import pi05_from_pi0

logger = logging.getLogger("flux.checkpoint")

Format = Literal["openpi", "lerobot", "fluxvla", "huggingface", "flux"]

VLM = "paligemma_with_expert.paligemma"
EXPERT = "paligemma_with_expert.gemma_expert"
EMBEDDING = "llm_backbone.embed_tokens.weight"
OURS = ("llm_backbone.embed_tokens.", "llm_backbone.layers.", "llm_backbone.norm.")
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


def to_ours(name: str, form: str) -> str | None:
    """Returns our name for a foreign weight; None if there is none."""
    if form in ("flux", "fluxvla"):
        return name
    if form == "lerobot":
        return to_ours(name.removeprefix("model."), "openpi") if name.startswith("model.") else None
    for ours, theirs in OPENPI if form == "openpi" else HUGGINGFACE:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return None


def from_ours(name: str, form: str) -> str:
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


def our_names(names: Collection[str], form: str) -> tuple[dict[str, str], list[str]]:
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


class PiCheckpoints(CheckpointFamily):
    """The checkpoints of pi0 and pi0.5, and of the PaliGemma that both start from."""

    formats: ClassVar[tuple[str, ...]] = get_args(Format)
    robot_dimension: ClassVar[Mapping[str, int]] = {
        "state_proj.projector.weight": 1,
        "action_in_proj.projector.weight": 1,
        "action_out_proj.projector.weight": 0,
        "action_out_proj.projector.bias": 0,
    }

    def recognise(self, names: Collection[str], *, is_ours: bool) -> Format | None:
        def any_starts_with(*prefixes: str) -> bool:
            return any(name.startswith(prefixes) for name in names)

        if any_starts_with("model.paligemma_with_expert."):
            return "lerobot"
        if any_starts_with("paligemma_with_expert."):
            return "openpi"
        if any_starts_with(*OURS):
            return "flux" if is_ours else "fluxvla"
        if any_starts_with("model.vision_tower.", "vision_tower."):
            return "huggingface"
        return None

    def our_names(self, names: Collection[str], form: str) -> tuple[dict[str, str], list[str]]:
        return our_names(names, form)

    def equal_copies(self, names: Mapping[str, str], form: str) -> Sequence[tuple[str, str]]:
        source = names.get(EMBEDDING)
        copies = TIED.get(form, ())
        return [] if source is None else [(source, copy) for copy in copies if copy != source]

    def kind(self, names: Collection[str]) -> str:
        """`pi0`, `pi05` or `paligemma` (no policy)."""
        if any(name.startswith("time_mlp_in.") for name in names):
            return "pi05"
        if any(name.startswith("action_time_mlp_in.") for name in names):
            return "pi0"
        return "paligemma"

    def may_be_missing(self, name: str, kind: str) -> bool:
        return kind == "paligemma" and not name.startswith(VLM_PARTS)

    def may_have_spare_rows(self, name: str, form: str) -> bool:
        """Hugging Face's PaliGemma has 64 embeddings that no token uses."""
        return name == EMBEDDING and form == "huggingface"

    def converted(
        self, tensors: Mapping[str, StoredTensor], kind: str, to_kind: str
    ) -> Mapping[str, StoredTensor] | None:
        return pi05_from_pi0(tensors) if (kind, to_kind) == ("pi0", "pi05") else None

    def hint_if_missing(self, names: Collection[str], kind: str) -> str:
        if kind == "pi0" and "time_mlp_in.projector.bias" in names:
            return "To start a pi0.5 from a pi0, set pretrained_from_pi0=True"
        return ""

    def written(
        self,
        tensors: Mapping[str, StoredTensor],
        file_tensors: Mapping[str, StoredTensor],
        form: str,
        to: str,
    ) -> dict[str, Tensor]:
        """The expert's lm_head, which is never used but required by the strict loaders of openpi
        and LeRobot, is copied, or zeros if the source has none."""
        only_vlm = to == "huggingface"
        written = {
            from_ours(name, to): tensor.read()
            for name, tensor in tensors.items()
            if not only_vlm or name.startswith(VLM_PARTS)
        }
        if to == "lerobot" and EMBEDDING in tensors:
            # LeRobot writes both names of the tied embedding; safetensors refuses shared memory.
            written[TIED["lerobot"][0]] = written[from_ours(EMBEDDING, "lerobot")].clone()
        if self.kind(tensors) != "paligemma" and to in ("openpi", "lerobot", "flux"):
            unused = _unused_head(tensors, file_tensors, form, required=to != "flux")
            if unused is not None:
                written[UNUSED[to][0]] = unused
        return written


PI_CHECKPOINTS = PiCheckpoints()


def _unused_head(
    tensors: Mapping[str, StoredTensor],
    file_tensors: Mapping[str, StoredTensor],
    form: str,
    *,
    required: bool,
) -> Tensor | None:
    """The expert's lm_head, which openpi and LeRobot store but never read."""
    for name in UNUSED.get(form, ()):
        if name in file_tensors and f"{EXPERT}.lm_head" in name:
            return file_tensors[name].read().contiguous()
    if not required:
        return None
    vocabulary = tensors[EMBEDDING].shape[0]
    expert = tensors["action_in_proj.projector.weight"]
    return torch.zeros(vocabulary, expert.shape[0], dtype=expert.dtype)
