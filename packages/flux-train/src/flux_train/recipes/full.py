"""pi0 and pi0.5 at their real size: 3.3 B parameters, as openpi's base checkpoints have them."""

from __future__ import annotations

from typing import Any

VLM_WIDTH, EXPERT_WIDTH, VISION_WIDTH = 2048, 1024, 1152
PALIGEMMA_VOCABULARY = 257152
PRETRAINED_ACTION_DIM = 32

# FluxVLA's: every linear layer of both Gemmas, the projector, and SigLIP's.
LORA_TARGETS = (
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    *("projector.projector", "out_proj", "fc1", "fc2"),
)


def pi0_model(
    *,
    action_horizon: int = 50,
    action_dim: int = PRETRAINED_ACTION_DIM,
    state_dim: int | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """pi0: the state is a token. `settings` override and add keys.

    `state_dim` is `action_dim` where it is not said. Of openpi's 32-dimensional projections a
    narrower network takes the first dimensions, where openpi puts a robot's.
    """
    width = EXPERT_WIDTH
    model = _shared(action_horizon, action_dim) | dict(
        type="PI0FlowMatching",
        llm_expert=_gemma(width, 4096),
        state_proj=dict(type="LinearProjector", in_dim=state_dim or action_dim, out_dim=width),
    )
    return model | settings


def pi05_model(
    *, action_horizon: int = 50, action_dim: int = PRETRAINED_ACTION_DIM, **settings: Any
) -> dict[str, Any]:
    """pi0.5: the state is in the prompt, the time in every norm. `settings` as of `pi0_model`."""
    width = EXPERT_WIDTH
    model = _shared(action_horizon, action_dim) | dict(
        type="PI05FlowMatching",
        llm_expert=_gemma(width, 4096, use_adarms=True, adarms_cond_dim=width),
    )
    return model | settings


def lora(*, modules_to_save: tuple[str, ...], rank: int = 256, alpha: int = 512) -> dict[str, Any]:
    """Settings of a model that trains adapters (FluxVLA's sizes) and `modules_to_save` alone."""
    return dict(
        use_lora=True,
        lora_rank=rank,
        lora_alpha=alpha,
        lora_target_modules=list(LORA_TARGETS),
        modules_to_save=list(modules_to_save),
    )


def _shared(action_horizon: int, action_dim: int) -> dict[str, Any]:
    width = EXPERT_WIDTH
    return dict(
        vision_backbone=dict(type="SigLIPViTBackbone"),
        projector=dict(type="LinearProjector", in_dim=VISION_WIDTH, out_dim=VLM_WIDTH),
        llm_backbone=_gemma(VLM_WIDTH, 16384, vocab_size=PALIGEMMA_VOCABULARY),
        proj_width=width,
        n_action_steps=action_horizon,
        action_in_proj=dict(type="LinearProjector", in_dim=action_dim, out_dim=width),
        action_out_proj=dict(type="LinearProjector", in_dim=width, out_dim=action_dim),
        max_action_dim=action_dim,
        num_steps=10,
        pretrained_adapt="slice" if action_dim < PRETRAINED_ACTION_DIM else None,
    )


def _gemma(width: int, mlp_width: int, **more: Any) -> dict[str, Any]:
    return dict(
        type="ConditionGemmaModel",
        hidden_size=width,
        intermediate_size=mlp_width,
        num_hidden_layers=18,
        num_attention_heads=8,
        num_key_value_heads=1,
        head_dim=256,
        **more,
    )
