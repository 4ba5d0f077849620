"""pi0 and pi0.5 as config trees: at the full size of openpi's base checkpoints (3.3 B parameters),
and smaller with the same structure, for measurements."""

from __future__ import annotations

from typing import Any, Literal

from ...config import with_settings

VLM_WIDTH, EXPERT_WIDTH, VISION_WIDTH = 2048, 1024, 1152
PALIGEMMA_VOCABULARY = 257152
PRETRAINED_ACTION_DIM = 32

Kind = Literal["pi0", "pi05"]
Size = Literal["small", "medium", "full"]

_SMALLER: dict[str, dict[str, int]] = {
    # width, mlp, layers and head of the prefix; width of the expert; width and layers of the vision
    "small": dict(width=256, mlp=1024, layers=6, head=32, expert=128, vision=128, tower=4),
    "medium": dict(width=512, mlp=2048, layers=8, head=64, expert=256, vision=256, tower=6),
}


def sized_model(kind: Kind, size: Size = "full", **settings: Any) -> dict[str, Any]:
    """Returns the config tree of a network of one size; `settings` as in `pi0_model`."""
    tree = {"pi0": pi0_model, "pi05": pi05_model}[kind](**settings)
    if size != "full":
        _shrink(tree, **_SMALLER[size])
    return tree


def pi0_model(
    *,
    action_horizon: int = 50,
    action_dim: int = PRETRAINED_ACTION_DIM,
    state_dim: int | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """pi0: the state is a token. `settings` override and add keys.

    `state_dim` defaults to `action_dim`. A narrower network takes the first dimensions of openpi's
    32-dimensional projections, which is where openpi puts a robot's dimensions.
    """
    width = EXPERT_WIDTH
    model = _shared(action_horizon, action_dim) | dict(
        type="PI0FlowMatching",
        llm_expert=_gemma(width, 4096),
        state_proj=dict(type="LinearProjector", in_dim=state_dim or action_dim, out_dim=width),
    )
    return with_settings(model, settings)


def pi05_model(
    *, action_horizon: int = 50, action_dim: int = PRETRAINED_ACTION_DIM, **settings: Any
) -> dict[str, Any]:
    """pi0.5: the state is in the prompt, the time in every norm. `settings` as in `pi0_model`."""
    width = EXPERT_WIDTH
    model = _shared(action_horizon, action_dim) | dict(
        type="PI05FlowMatching",
        llm_expert=_gemma(width, 4096, use_adarms=True, adarms_cond_dim=width),
    )
    return with_settings(model, settings)


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
        num_inference_steps=10,
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


def _shrink(
    tree: dict[str, Any],
    *,
    width: int,
    mlp: int,
    layers: int,
    head: int,
    expert: int,
    vision: int,
    tower: int,
) -> None:
    """Makes a tree smaller, in place."""
    for part, hidden in (("llm_backbone", width), ("llm_expert", expert)):
        tree[part] |= dict(hidden_size=hidden, intermediate_size=mlp * hidden // width)
        tree[part] |= dict(num_hidden_layers=layers, num_attention_heads=8, head_dim=head)
    tree["vision_backbone"]["vision_config"] = dict(
        hidden_size=vision,
        intermediate_size=4 * vision,
        num_hidden_layers=tower,
        num_attention_heads=4,
        image_size=112,
    )
    # The embedding has about the same share of the parameters as at full size.
    tree["llm_backbone"]["vocab_size"] = 8192
    tree["projector"] |= dict(in_dim=vision, out_dim=width)
    tree["proj_width"] = expert
    for name in ("action_in_proj", "state_proj"):
        if name in tree:
            tree[name]["out_dim"] = expert
    tree["action_out_proj"]["in_dim"] = expert
    if "adarms_cond_dim" in tree["llm_expert"]:
        tree["llm_expert"]["adarms_cond_dim"] = expert
