"""The names of GR00T-N1.5's weights in NVIDIA's, LeRobot's and FluxVLA's files, and in ours.

LeRobot puts a prefix before NVIDIA's names, FluxVLA changes two. The output head of the language
model is tied to its embedding and never read. Each writer keeps another one of the two, and files
that NVIDIA's code saved after loading hold both, with different values: the embedding counts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from ...errors import CheckpointError
from ..flow.checkpoints import CheckpointFamily, StoredTensor

EAGLE = "backbone.eagle_model."
LANGUAGE_HEAD = f"{EAGLE}language_model.lm_head.weight"
EMBEDDING = "llm_backbone.model.embed_tokens.weight"
VISION_HEAD = f"{EAGLE}vision_model.vision_model.head."
UNUSED_HEAD = "unused.vision_head."
"""Our name of SigLIP's pooling head, which nobody runs, but which all other projects store."""

NVIDIA = (
    ("vision_backbone.vision.", f"{EAGLE}vision_model."),
    ("projector.projector.", f"{EAGLE}mlp1.0."),
    ("llm_backbone.model.", f"{EAGLE}language_model.model."),
    ("dit.", "action_head.model."),
    *(
        (f"{part}.", f"action_head.{part}.")
        for part in (
            *("vlln", "vl_self_attention", "state_encoder", "action_encoder", "action_decoder"),
            *("future_tokens", "position_embedding"),
        )
    ),
)
"""Our prefix, NVIDIA's."""
FLUXVLA = (("vlm_backbone.vlm.", EAGLE), ("vla_head.", "action_head."))
"""FluxVLA's prefix, NVIDIA's."""
LEROBOT = "_groot_model."

# Keys and values of the observation: in the blocks that read them, and of their own in ours.
_THEIR_CONTEXT = re.compile(r"action_head\.model\.transformer_blocks\.(\d+)\.attn1\.(to_[kv]\..*)")
_OUR_CONTEXT = re.compile(r"dit\.context\.(\d+)\.(to_[kv]\..*)")


class GR00TCheckpoints(CheckpointFamily):
    """The checkpoints of GR00T-N1.5."""

    formats = ("nvidia", "lerobot", "fluxvla", "flux")
    robot_dimension: ClassVar[Mapping[str, int]] = {
        "state_encoder.layer1.W": 1,
        "action_encoder.W1.W": 1,
        "action_decoder.layer2.W": 2,
        "action_decoder.layer2.b": 1,
    }

    def recognise(self, names: Collection[str], *, is_ours: bool) -> str | None:
        beginnings = {
            "lerobot": (f"{LEROBOT}{EAGLE}", f"{LEROBOT}action_head."),
            "nvidia": (EAGLE, "action_head."),
            "fluxvla": ("vlm_backbone.vlm.", "vla_head."),
            "flux": ("dit.", "vl_self_attention."),
        }
        for form, prefixes in beginnings.items():
            if any(name.startswith(prefixes) for name in names):
                return form
        return None

    def our_names(self, names: Collection[str], form: str) -> tuple[dict[str, str], list[str]]:
        found: dict[str, str] = {}
        unknown: list[str] = []
        head: str | None = None
        for name in names:
            theirs = _to_nvidia(name, form)
            if form == "flux":
                ours = name
            elif theirs is None:
                unknown.append(name)
                continue
            elif theirs == LANGUAGE_HEAD:
                head = name
                continue
            else:
                ours = _to_ours(theirs)
            if ours is None:
                unknown.append(name)
            elif not ours.startswith(UNUSED_HEAD):
                found[ours] = name
        if head is not None:
            found.setdefault(EMBEDDING, head)
        return found, unknown

    def kind(self, names: Collection[str]) -> str:
        return "gr00t"

    def written(
        self,
        tensors: Mapping[str, StoredTensor],
        file_tensors: Mapping[str, StoredTensor],
        form: str,
        to: str,
    ) -> dict[str, Tensor]:
        """The vision tower's pooling head, which others' loaders require, is copied, or zeros if
        the source has none. LeRobot gets the embedding under the name of the language head."""
        written = {from_ours(name, to): tensor.read() for name, tensor in tensors.items()}
        for name, tensor in file_tensors.items():
            ours = name if form == "flux" else _to_ours(_to_nvidia(name, form) or "")
            if ours is not None and ours.startswith(UNUSED_HEAD):
                written[from_ours(ours, to)] = tensor.read()
        if to != "flux" and "vision_backbone.vision.vision_model.post_layernorm.bias" in tensors:
            for name, value in _empty_head(tensors).items():
                written.setdefault(from_ours(name, to), value)
        return written


GR00T_CHECKPOINTS = GR00TCheckpoints()


def from_ours(name: str, form: str) -> str:
    """Returns a project's name for one of our weights.

    Raises:
        CheckpointError: that project has no such weight.
    """
    if form == "flux":
        return name
    theirs = _nvidia_name(name)
    if form == "lerobot":
        return LEROBOT + (LANGUAGE_HEAD if name == EMBEDDING else theirs)
    if form == "fluxvla":
        prefix, nvidia = next(pair for pair in FLUXVLA if theirs.startswith(pair[1]))
        return prefix + theirs.removeprefix(nvidia)
    return theirs


def _nvidia_name(name: str) -> str:
    if name.startswith(UNUSED_HEAD):
        return VISION_HEAD + name.removeprefix(UNUSED_HEAD)
    if match := _OUR_CONTEXT.fullmatch(name):
        block = 2 * int(match[1])
        return f"action_head.model.transformer_blocks.{block}.attn1.{match[2]}"
    for ours, theirs in NVIDIA:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise CheckpointError(f"{name}: expected a weight that NVIDIA's checkpoints contain")


def _to_nvidia(name: str, form: str) -> str | None:
    """Returns NVIDIA's name for a name in a file of `form`; None if it is none of that form."""
    if form == "lerobot":
        return name.removeprefix(LEROBOT) if name.startswith(LEROBOT) else None
    if form == "fluxvla":
        for prefix, nvidia in FLUXVLA:
            if name.startswith(prefix):
                return nvidia + name.removeprefix(prefix)
        return None
    return name


def _to_ours(name: str) -> str | None:
    """Returns our name for NVIDIA's; None if there is none."""
    if name.startswith(VISION_HEAD):
        return UNUSED_HEAD + name.removeprefix(VISION_HEAD)
    match = _THEIR_CONTEXT.fullmatch(name)
    if match and int(match[1]) % 2 == 0:
        return f"dit.context.{int(match[1]) // 2}.{match[2]}"
    for ours, theirs in NVIDIA:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return None


def _empty_head(tensors: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
    norm = tensors["vision_backbone.vision.vision_model.post_layernorm.bias"]
    first = tensors["vision_backbone.vision.vision_model.encoder.layers.0.mlp.fc1.bias"]
    (width,), (mlp_width,) = norm.shape, first.shape
    shapes = {
        "probe": (1, 1, width),
        "attention.in_proj_weight": (3 * width, width),
        "attention.in_proj_bias": (3 * width,),
        "attention.out_proj.weight": (width, width),
        "attention.out_proj.bias": (width,),
        "layernorm.weight": (width,),
        "layernorm.bias": (width,),
        "mlp.fc1.weight": (mlp_width, width),
        "mlp.fc1.bias": (mlp_width,),
        "mlp.fc2.weight": (width, mlp_width),
        "mlp.fc2.bias": (width,),
    }
    return {f"{UNUSED_HEAD}{k}": torch.zeros(v, dtype=norm.dtype) for k, v in shapes.items()}
