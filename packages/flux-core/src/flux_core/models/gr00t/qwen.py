"""GR00T's language model: the first layers of Qwen3, from `transformers`, and its final norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...config import check_at_least
from ...errors import ConfigError, MissingDependencyError
from ..layers.basic import RotaryAngles, additive_mask


class Qwen3Backbone(nn.Module):
    """A causal stack over embedded tokens."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes; the defaults are Qwen3-1.7B's, of whose 28 layers GR00T-N1.5 keeps 12."""

        hidden_size: int = 2048
        intermediate_size: int = 6144
        num_hidden_layers: int = 12
        num_attention_heads: int = 16
        num_key_value_heads: int = 8
        head_dim: int = 128
        vocab_size: int = 151680
        rms_norm_eps: float = 1e-6
        rope_theta: float = 1e6

        def __post_init__(self) -> None:
            check_at_least(
                1,
                self,
                *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
                *("num_key_value_heads", "head_dim", "vocab_size"),
            )
            if self.num_attention_heads % self.num_key_value_heads:
                raise ConfigError(
                    f"num_attention_heads: expected a multiple of num_key_value_heads "
                    f"({self.num_key_value_heads}), got {self.num_attention_heads}"
                )

        def build(self) -> Qwen3Backbone:
            return Qwen3Backbone(self)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.model = _qwen3(config)
        # Theirs is a buffer, which would have no values in a network built on the meta device.
        self.model.rotary_emb = Rotary(config.head_dim, config.rope_theta)

    @property
    def layers(self) -> list[nn.Module]:
        """The transformer's layers."""
        return list(cast(nn.ModuleList, self.model.layers))

    @property
    def rotary(self) -> Rotary:
        """The rotary embedding."""
        return cast(Rotary, self.model.rotary_emb)

    def embed(self, tokens_BL: Tensor) -> Tensor:
        """(B, L) int64 -> (B, L, W), not scaled."""
        return cast(nn.Embedding, self.model.embed_tokens)(tokens_BL)

    def forward(self, x_BLW: Tensor, pad_masks: Tensor) -> Tensor:
        """Runs all layers and the final norm.

        Args:
            x_BLW: embedded tokens.
            pad_masks: (B, L) bool, True = real token; padding may be anywhere.

        Returns:
            (B, L, W); what padding holds has no meaning.
        """
        length = x_BLW.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=x_BLW.device).tril()
        # Four dimensions, because a mask of two is expanded to one with -inf in it, and then
        # every softmax is exported with a guard against rows without any key.
        mask = additive_mask(pad_masks[:, None, :] & causal, 1, x_BLW.dtype)
        positions = (pad_masks.cumsum(1) - 1).clamp(min=0)
        return self.model(
            inputs_embeds=x_BLW, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state


class Rotary(nn.Module):
    """Rotary angles in the form in which `transformers` asks for them."""

    def __init__(self, head_dim: int, theta: float) -> None:
        super().__init__()
        self.angles: nn.Module = RotaryAngles(head_dim, theta)

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L) int64 positions -> cos and sin, each (B, L, head_dim) in the type of x."""
        cos, sin = self.angles(position_ids)
        return _both_halves(cos, x.dtype), _both_halves(sin, x.dtype)


def _both_halves(angles_B1LD: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.cat((angles_B1LD, angles_B1LD), dim=-1)[:, 0].to(dtype)


def _qwen3(config: Qwen3Backbone.Config) -> Any:
    try:
        from transformers import Qwen3Config, Qwen3Model
    except ImportError as error:
        raise MissingDependencyError(
            f"GR00T needs transformers with Qwen3 ({error}): pip install 'flux-core[torch]'"
        ) from error
    # Typed loosely, because its settings differ between versions of transformers.
    make: Any = Qwen3Config
    sizes = make(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        rms_norm_eps=config.rms_norm_eps,
        use_cache=False,
        attn_implementation="sdpa",
    )
    return Qwen3Model(sizes)
