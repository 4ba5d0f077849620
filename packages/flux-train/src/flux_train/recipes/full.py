"""Training full-size pi0 and pi0.5 with adapters."""

from __future__ import annotations

from typing import Any

# FluxVLA's targets: every linear layer of both Gemmas, the projector, and SigLIP.
LORA_TARGETS = (
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    *("projector.projector", "out_proj", "fc1", "fc2"),
)


def lora(*, modules_to_save: tuple[str, ...], rank: int = 256, alpha: int = 512) -> dict[str, Any]:
    """Settings of a model that trains only adapters (FluxVLA's sizes) and `modules_to_save`."""
    return dict(
        use_lora=True,
        lora_rank=rank,
        lora_alpha=alpha,
        lora_target_modules=list(LORA_TARGETS),
        modules_to_save=list(modules_to_save),
    )
