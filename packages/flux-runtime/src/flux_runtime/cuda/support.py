"""Which bundles the engine `cuda` runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast, get_args

from flux_core.bundle import DescribedBundle

Model = Literal["pi0", "pi05"]
MODELS: tuple[Model, ...] = get_args(Model)
PRECISION = "bf16"
VISION_BACKBONE = "SigLIPViTBackbone"


def refusal(bundle: DescribedBundle) -> str:
    """Returns why the engine does not run a bundle, in a few words; '' if it does.

    It reads the manifest and config.json only.
    """
    model = cast("Mapping[str, Any]", bundle.config.get("model") or {})
    return next(_reasons(bundle.manifest.model, bundle.manifest.precision, model), "")


def refusal_of_guidance(bundle: DescribedBundle) -> str:
    """Returns why `auto` prefers another engine for a bundle's `rtc_config`; '' if it does not.

    Guidance needs the velocity between the steps, which a captured inference does not give. A run
    without real-time chunking does not need it either, so `refusal` does not ask for it.
    """
    section = cast("Mapping[str, Any]", bundle.config.get("inference") or {})
    rtc = cast("Mapping[str, Any]", section.get("rtc_config") or {})
    if rtc.get("enabled", True) and rtc.get("method") == "guidance":
        return "it runs real-time chunking with method prefix, not guidance"
    return ""


def _reasons(kind: str, precision: str, model: Mapping[str, Any]) -> Iterator[str]:
    if kind not in MODELS:
        yield f"it runs {' and '.join(MODELS)}, not {kind}"
    vision = model.get("vision_backbone") or {}
    if (backbone := vision.get("type", VISION_BACKBONE)) != VISION_BACKBONE:
        yield f"it runs the vision backbone {VISION_BACKBONE}, not {backbone}"
    if (channels := (vision.get("vision_config") or {}).get("num_channels", 3)) != 3:
        yield f"it runs vision backbones with 3 channels (num_channels), not {channels}"
    if precision != PRECISION:
        yield f"it runs bundles in {PRECISION} (flux-export --precision bf16), not {precision}"
    if smoothing := model.get("action_smoothing", 0.0):
        yield f"it runs networks without action_smoothing, not with {smoothing}"
    if (group := model.get("actions_per_token", 1)) != 1:
        yield f"it runs networks with 1 action per token (actions_per_token), not {group}"
    for part in ("llm_backbone", "llm_expert"):
        dim = (model.get(part) or {}).get("head_dim", 256)
        if dim < 32 or dim & (dim - 1):
            yield f"it runs {part}.head_dim that is a power of two from 32 on, not {dim}"
