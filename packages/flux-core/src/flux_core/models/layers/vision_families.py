"""The image encoders of `transformers` that we know: sizes, and what differs between them.

Everything here is known from a config alone, without importing `transformers`: whoever binds a
config may not have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...config import bind
from ...errors import ConfigError

Sizes = Mapping[str, Any]

_NAMES: Mapping[Any, tuple[str, ...]] = {
    str: ("model_type", "hidden_act"),
    int: (
        *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_channels", "num_stages", "num_register_tokens"),
    ),
    int | tuple[int, int]: ("patch_size", "image_size"),
    tuple[int, ...]: ("hidden_sizes", "depths"),
    float: (
        *("layer_norm_eps", "layer_scale_init_value", "layerscale_value", "initializer_range"),
        *("drop_path_rate", "attention_dropout", "hidden_dropout_prob", "mlp_ratio", "rope_theta"),
        "attention_probs_dropout_prob",
    ),
    float | None: ("pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale"),
    bool: (
        *("qkv_bias", "query_bias", "key_bias", "value_bias", "proj_bias", "mlp_bias"),
        *("use_swiglu_ffn", "use_gated_mlp", "use_mask_token", "vision_use_head"),
        *("apply_layernorm", "reshape_hidden_states"),
    ),
}
_TYPES = {name: declared for declared, names in _NAMES.items() for name in names}
"""Setting -> its type. `transformers` refuses a wrong one late, or not at all."""

_VIT: Sizes = {"hidden_size": 768, "patch_size": 16, "image_size": 224}


@dataclass(frozen=True, kw_only=True)
class Family:
    """One `model_type`.

    Attributes:
        model: the class of `transformers`.
        config: the class of its config.
        layer: the class of a layer.
        defaults: the sizes that a `config.json` may leave out.
        positions: the name of its position embeddings, if it has any. They are a table with one
            row for each patch (after that of the class token, if it has one).
        first_patch: tokens before the first patch, without registers.
        stages: whether it is convolutional, with stages that halve the resolution.
        unused: modules and parameters that no patch depends on.
        fixed: settings that are always these here.
        steps: modules that are called one after the other in place of the model, if it makes an
            attention mask while it is exported, where there is nothing to mask.
    """

    model: str
    config: str
    layer: str
    defaults: Sizes = field(default_factory=lambda: _VIT)
    positions: str | None = None
    first_patch: int = 1
    stages: bool = False
    unused: tuple[str, ...] = ()
    fixed: Sizes = field(default_factory=dict)
    steps: tuple[str, ...] = ()

    def value(self, config: Sizes, name: str) -> Any:
        """A setting of the config, or what `transformers` takes for it."""
        return config.get(name, self.defaults[name])

    def stride(self, config: Sizes) -> int:
        """Pixels per token, in each direction."""
        patch, other = _pair(self.value(config, "patch_size"))
        if patch != other:
            raise ConfigError(f"config.patch_size: expected square patches, got {[patch, other]}")
        return patch * 2 ** (len(self._widths(config)) - 1) if self.stages else patch

    def width(self, config: Sizes) -> int:
        """Width of a token."""
        return self._widths(config)[-1] if self.stages else self.value(config, "hidden_size")

    def _widths(self, config: Sizes) -> Sequence[int]:
        widths = self.value(config, "hidden_sizes")
        if not widths:
            raise ConfigError("config.hidden_sizes: expected at least one stage, got none")
        return widths

    def image_size(self, config: Sizes) -> tuple[int, int]:
        """(height, width) in pixels that the encoder was trained with."""
        return _pair(self.value(config, "image_size"))

    def skipped(self, config: Sizes) -> int:
        """Tokens before the first patch: the class token and registers."""
        default = self.defaults.get("num_register_tokens", 0)
        return self.first_patch + config.get("num_register_tokens", default)


_CONVOLUTIONS = {"hidden_sizes": (96, 192, 384, 768), "patch_size": 4, "image_size": 224}
_DINOV2_STEPS = ("embeddings", "encoder", "layernorm")

FAMILIES: dict[str, Family] = {
    "siglip_vision_model": Family(
        model="SiglipVisionModel",
        config="SiglipVisionConfig",
        layer="SiglipEncoderLayer",
        positions="embeddings.position_embedding.weight",
        first_patch=0,
        fixed={"vision_use_head": False},
    ),
    "dinov2": Family(
        model="Dinov2Model",
        config="Dinov2Config",
        layer="Dinov2Layer",
        defaults={**_VIT, "patch_size": 14},
        positions="embeddings.position_embeddings",
        unused=("embeddings.mask_token",),
        steps=_DINOV2_STEPS,
    ),
    "dinov2_with_registers": Family(
        model="Dinov2WithRegistersModel",
        config="Dinov2WithRegistersConfig",
        layer="Dinov2WithRegistersLayer",
        defaults={**_VIT, "num_register_tokens": 4},
        positions="embeddings.position_embeddings",
        unused=("embeddings.mask_token",),
        steps=_DINOV2_STEPS,
    ),
    "dinov3_vit": Family(
        model="DINOv3ViTModel",
        config="DINOv3ViTConfig",
        layer="DINOv3ViTLayer",
        defaults={**_VIT, "hidden_size": 384, "rope_theta": 100.0, "num_attention_heads": 6},
        unused=("embeddings.mask_token",),
    ),
    "convnext": Family(
        model="ConvNextModel",
        config="ConvNextConfig",
        layer="ConvNextLayer",
        defaults=_CONVOLUTIONS,
        first_patch=0,
        stages=True,
        # Only for the pooled features.
        unused=("layernorm",),
    ),
    "dinov3_convnext": Family(
        model="DINOv3ConvNextModel",
        config="DINOv3ConvNextConfig",
        layer="DINOv3ConvNextLayer",
        defaults=_CONVOLUTIONS,
        stages=True,
    ),
}
"""`model_type` of a config -> what we know of it."""

WRAPPED = {"siglip": ("vision_config", "siglip_vision_model")}
"""`model_type` of a model of images and text -> where its encoder's config is, and its type."""


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return first, second


def family_of(config: Sizes) -> Family:
    """Returns the family of a config.

    Raises:
        ConfigError: it is another one, one that is not for RGB images, or a setting has a wrong
            type.
    """
    for key, value in config.items():
        if key in _TYPES:
            bind(_TYPES[key], value, f"config.{key}")
    kind = config.get("model_type")
    known = ", ".join(FAMILIES)
    if kind is None:
        raise ConfigError(f"config.model_type: missing; expected one of {known}")
    if kind not in FAMILIES:
        raise ConfigError(f"config.model_type: expected one of {known}, got {kind!r}")
    if config.get("num_channels", 3) != 3:
        raise ConfigError(
            f"config.num_channels: expected 3 (images are RGB), got {config['num_channels']}"
        )
    if "quantization_config" in config:
        raise ConfigError("config.quantization_config: expected plain weights, got quantised ones")
    family = FAMILIES[kind]
    if family.stride(config) < 1:
        raise ConfigError(f"config.patch_size: expected at least 1, got {config['patch_size']}")
    return family
