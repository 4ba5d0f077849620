"""Which specialisations are compiled for everybody: those of full-size pi0 and pi0.5.

Sizes of rows are arguments of the kernels, so every number of cameras and tokens, every action
horizon up to 127 steps and RTC's known rows share them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..architectures import Architecture
from ..pi import PiDescription, make_plan
from ..pi.description import GemmaSizes, VisionSizes
from ..support import MODELS, Model
from ..variants import PROMPT_BUCKETS, variants
from .specialisation import Specialisation, specialisations

_WIDTH, _EXPERT_WIDTH = 2048, 1024
_PIXELS = ((2 / 255, 2 / 255, 2 / 255),) * 3, ((-1.0, -1.0, -1.0),) * 3


def full_size(model: Model) -> PiDescription:
    """Describes the published network (PaliGemma 3B with SigLIP, and an expert of 300M)."""
    return PiDescription(
        adaptive=model == "pi05",
        tower=VisionSizes(
            width=1152, mlp=4304, layers=27, heads=16, image_size=224, patch=14, eps=1e-6
        ),
        prefix=GemmaSizes(width=_WIDTH, mlp=16384, eps=1e-6),
        expert=GemmaSizes(width=_EXPERT_WIDTH, mlp=4096, eps=1e-6),
        layers=18,
        heads=8,
        key_heads=1,
        head_dim=256,
        positions=1152,
        vocabulary=257152,
        state_dim=32 if model == "pi0" else 0,
        action_dim=32,
        live_dims=32,
        horizon=50,
        num_inference_steps=10,
        image_scale=_PIXELS[0],
        image_offset=_PIXELS[1],
        packed=True,
    )


def shipped(target: Architecture) -> tuple[Specialisation, ...]:
    """Returns what to compile for an architecture."""
    found = {
        one.key: one
        for model in MODELS
        for one in needed(full_size(model), len(_PIXELS[0]), PROMPT_BUCKETS[-1], target)
    }
    return tuple(found.values())


def needed(
    description: PiDescription, num_cameras: int, max_prompt_tokens: int, target: Architecture
) -> Iterator[Specialisation]:
    """Yields what a network needs on an architecture, for all its variants."""
    short = _short(description)
    plans = (
        make_plan(short, cameras, tokens, arch=target.name)
        for cameras, tokens in variants(num_cameras, max_prompt_tokens)
    )
    yield from specialisations(plans)


def _short(description: PiDescription) -> PiDescription:
    """Leaves out what only repeats other launches: the first, the last and one between remain."""
    return replace(
        description,
        tower=replace(description.tower, layers=min(1, description.tower.layers)),
        layers=min(3, description.layers),
        num_inference_steps=min(3, description.num_inference_steps),
    )
