"""Training full-size networks with adapters."""

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


def gr00t_lora(*, rank: int = 16, alpha: int = 16, dropout: float = 0.1) -> dict[str, Any]:
    """Settings of a GR00T that trains adapters of the mixer and the diffusion transformer (NVIDIA's
    sizes), and the embodiment's encoders and decoder."""
    return dict(
        use_lora=True,
        lora_rank=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        modules_to_save=["state_encoder", "action_encoder", "action_decoder"],
    )
