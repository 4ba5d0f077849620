"""FluxVLA's spelling of GR00T-N1.5: `LlavaVLA` with an Eagle backbone and a flow-matching head.

Sizes that are not given are those of GR00T-N1.5-3B. The `Inference` classes are the same network,
made faster for one GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError
from .sections import check_known, check_type, part_of

HORIZON = 10
"""FluxVLA's default of `num_steps`, which is the number of predicted steps."""
LLM_LAYERS = 12
"""The layers of Qwen3-1.7B that GR00T-N1.5 keeps."""
DEAD_OF_BACKBONE = ("vlm_path", "dtype", "vlm_config", "project_to_dim", "attn_implementation")
DEAD_OF_HEAD = ("num_layers", "num_heads", "traj_length")
_RENAMED = {
    "state_dim": "max_state_dim",
    "action_dim": "max_action_dim",
    "ori_action_dim": "loss_action_dim",
    "num_inference_timesteps": "num_inference_steps",
    "num_target_vision_tokens": "num_future_tokens",
    "max_seq_len": "num_positions",
    "max_num_embodiments": "num_embodiments",
    "hidden_size": "hidden_size",
    "rtc_training_config": "rtc_training_config",
}
_FIXED = {
    "use_vlln": True,
    "add_positional_embeddings": True,
    "num_timestep_buckets": 1000,
    "noise_s": 0.999,
    "noise_beta_alpha": 1.5,
    "noise_beta_beta": 1.0,
}
"""What a head may say, but only with GR00T-N1.5's value."""
_MIXER = {"attention_head_dim": 64, "num_attention_heads": 32}
_DIT = {"attention_head_dim": 48, "num_attention_heads": 32}
_MIXER_KEYS = (*_MIXER, "num_layers", "dropout")
_DIT_KEYS = (*_DIT, "num_layers", "dropout", "output_dim", "cross_attention_dim")
_BLOCKS = {
    "final_dropout": True,
    "positional_embeddings": None,
    "interleave_self_attention": True,
    "norm_type": "ada_norm",
}


def split_eagle(vlm: Mapping[str, Any], path: str) -> dict[str, Any]:
    """`vlm_backbone=dict(type='EagleBackbone', ...)` as the language model's layers and freezing.

    Where its files are (`vlm_path`) does not matter: the sizes are known, the weights are in the
    checkpoint, and the tokenizer is named by the transforms.
    """
    owner = check_type(vlm, ("EagleBackbone", "EagleInferenceBackbone"), path)
    known = ("type", "select_layer", "tune_llm", "tune_visual", *DEAD_OF_BACKBONE)
    check_known(vlm, known, path, owner)
    if vlm.get("project_to_dim") is not None:
        raise ConfigError(
            f"{path}.project_to_dim: expected None, as GR00T-N1.5 has no such layer, got "
            f"{vlm['project_to_dim']!r}"
        )
    check_known(
        part_of(vlm, "vlm_config", path), ("max_input_seq_len",), f"{path}.vlm_config", owner
    )
    for key, instead in (
        ("tune_llm", "model.freeze_llm_backbone=True"),
        ("tune_visual", "model.freeze_vision_backbone=True and model.freeze_projector=True"),
    ):
        if vlm.get(key, True) is not True:
            raise ConfigError(f"{path}.{key}: is not supported. Set {instead}")
    layers = vlm.get("select_layer", LLM_LAYERS)
    dead = {key: vlm[key] for key in DEAD_OF_BACKBONE if key in vlm}
    return {"llm_backbone": {"type": "Qwen3Backbone", "num_hidden_layers": layers}, **dead}


def split_head(head: Mapping[str, Any], path: str) -> dict[str, Any]:
    """`vla_head=dict(type='FlowMatchingHead', ...)` as the keys of the network."""
    owner = check_type(head, ("FlowMatchingHead", "FlowMatchingInferenceHead"), path)
    sections = ("diffusion_model_cfg", "vl_self_attention_cfg")
    others = ("type", "num_steps", "input_embedding_dim", "backbone_embedding_dim", *DEAD_OF_HEAD)
    check_known(head, (*others, *_RENAMED, *_FIXED, *sections), path, owner)
    _check_fixed(head, _FIXED, path)
    dit = _blocks(head, "diffusion_model_cfg", _DIT_KEYS, path)
    mixer = _blocks(head, "vl_self_attention_cfg", _MIXER_KEYS, path)
    dit.setdefault("output_dim", head.get("hidden_size", 1024))
    for key, part, own in (
        ("input_embedding_dim", "diffusion_model_cfg", _DIT | dit),
        ("backbone_embedding_dim", "vl_self_attention_cfg", _MIXER | mixer),
    ):
        width = own["num_attention_heads"] * own["attention_head_dim"]
        if head.get(key, width) != width:
            raise ConfigError(
                f"{path}.{key}: expected {width} (heads times head_dim of {part}), got {head[key]}"
            )
    return {
        **{ours: head[key] for key, ours in _RENAMED.items() if key in head},
        "n_action_steps": head.get("num_steps", HORIZON),
        "vl_self_attention": {"type": "VLSelfAttention", **mixer},
        "dit": {"type": "DiT", **dit},
        **{key: head[key] for key in DEAD_OF_HEAD if key in head},
    }


def _blocks(head: Mapping[str, Any], key: str, known: tuple[str, ...], path: str) -> dict[str, Any]:
    """The sizes of the diffusion transformer or the mixer."""
    section, where = part_of(head, key, path), f"{path}.{key}"
    check_known(section, (*known, *_BLOCKS), where, "FlowMatchingHead")
    _check_fixed(section, _BLOCKS, where)
    return {name: section[name] for name in known if name in section}


def _check_fixed(section: Mapping[str, Any], fixed: Mapping[str, Any], path: str) -> None:
    for key, value in fixed.items():
        if section.get(key, value) != value:
            raise ConfigError(f"{path}.{key}: expected {value!r}, got {section[key]!r}")
