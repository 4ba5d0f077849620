"""pi0 and pi0.5 at their real size: 3.3 B parameters, as openpi's base checkpoints have them."""

from __future__ import annotations

from typing import Any

VLM_WIDTH, EXPERT_WIDTH, VISION_WIDTH = 2048, 1024, 1152
PALIGEMMA_VOCABULARY = 257152
PRETRAINED_ACTION_DIM = 32


def pi0_model(*, action_horizon: int = 50, **settings: Any) -> dict[str, Any]:
    """pi0: the state is a token. `settings` override and add keys."""
    width = EXPERT_WIDTH
    model = _shared(action_horizon) | dict(
        type="PI0FlowMatching",
        llm_expert=_gemma(width, 4096),
        state_proj=dict(type="LinearProjector", in_dim=PRETRAINED_ACTION_DIM, out_dim=width),
    )
    return model | settings


def pi05_model(*, action_horizon: int = 50, **settings: Any) -> dict[str, Any]:
    """pi0.5: the state is in the prompt, the time in every norm. `settings` override and add."""
    width = EXPERT_WIDTH
    model = _shared(action_horizon) | dict(
        type="PI05FlowMatching",
        llm_expert=_gemma(width, 4096, use_adarms=True, adarms_cond_dim=width),
    )
    return model | settings


def _shared(action_horizon: int) -> dict[str, Any]:
    width, action_dim = EXPERT_WIDTH, PRETRAINED_ACTION_DIM
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
