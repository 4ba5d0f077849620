"""The Gemma decoder as used by pi0: a stack of blocks.

The vision-language stream and the action expert are both such stacks; the expert's blocks also
attend to the keys and values of the other stream's blocks, layer by layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...config import check_at_least
from ...errors import ConfigError
from ..layers.basic import AdaRMSNorm, RMSNorm, RotaryAngles, attend, rotate
from ..layers.packing import Projections


@dataclass(frozen=True, kw_only=True)
class GemmaConfig:
    """Sizes of one Gemma stack (names as in Hugging Face's `GemmaConfig`).

    `vocab_size` matters only for the vision-language stream: the expert reads no tokens.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int = 8
    num_key_value_heads: int = 1
    head_dim: int = 256
    vocab_size: int | None = None
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    hidden_act: Literal["gelu_pytorch_tanh"] = "gelu_pytorch_tanh"
    use_adarms: bool = False
    adarms_cond_dim: int | None = None

    def __post_init__(self) -> None:
        check_at_least(
            1,
            self,
            *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
            *("num_key_value_heads", "head_dim", "adarms_cond_dim"),
        )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_attention_heads: expected a multiple of num_key_value_heads "
                f"({self.num_key_value_heads}), got {self.num_attention_heads}"
            )
        if self.use_adarms and self.adarms_cond_dim is None:
            raise ConfigError("adarms_cond_dim: expected a width with use_adarms=True, got None")

    @property
    def cond_dim(self) -> int | None:
        """Width of the adaRMS condition, None for the plain norm."""
        return self.adarms_cond_dim if self.use_adarms else None


class ConditionGemmaModel(nn.Module):
    """Embedding (optional), blocks, final norm and rotary angles of one stream."""

    @dataclass(frozen=True, kw_only=True)
    class Config(GemmaConfig):
        def build(self, *, with_embedding: bool) -> ConditionGemmaModel:
            return ConditionGemmaModel(self, with_embedding=with_embedding)

    def __init__(self, config: Config, *, with_embedding: bool) -> None:
        super().__init__()
        self.config = config
        if with_embedding:
            if config.vocab_size is None:
                raise ConfigError("vocab_size: expected a number for the language stream, got None")
            self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(GemmaBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = build_norm(config)
        self.angles: nn.Module = RotaryAngles(config.head_dim, config.rope_theta)

    @property
    def blocks(self) -> list[GemmaBlock]:
        """The layers, typed."""
        return cast("list[GemmaBlock]", list(self.layers))

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """(B, T) int64 -> (B, T, W), scaled by sqrt(W) as Gemma does."""
        return self.embed_tokens(tokens_BT) * self.config.hidden_size**0.5


class GemmaBlock(nn.Module):
    """One decoder layer; `project` and `finish` are its halves around the attention."""

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.input_layernorm = build_norm(config)
        self.self_attn = GemmaProjections(config)
        self.post_attention_layernorm = build_norm(config)
        self.mlp = GemmaMLP(config)

    def forward(
        self,
        x_BTW: Tensor,
        angles: tuple[Tensor, Tensor],
        mask: Tensor,
        *,
        cond: Tensor | None = None,
        past: tuple[Tensor, Tensor] | None = None,
        only_keys: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One layer of one stream.

        Args:
            x_BTW: the stream.
            angles: rotary cos and sin of its positions.
            mask: `additive_mask` of which keys each position attends to.
            cond: (B, W) or (B, T, W) adaRMS condition.
            past: keys and values, each (B, K, P, D), of the tokens before the stream.
            only_keys: returns the stream unchanged, which saves the rest of the layer.

        Returns:
            The stream, and its own rotated keys and values, each (B, K, T, D).
        """
        if only_keys:
            normed, _ = self.input_layernorm(x_BTW, cond)
            keys, values = self.self_attn.keys_and_values(normed)
            return x_BTW, rotate(keys, *angles), values
        queries, keys, values, gate = self.project(x_BTW, *angles, cond)
        seen_keys, seen_values = keys, values
        if past is not None:
            seen_keys = torch.cat((past[0], keys), dim=2)
            seen_values = torch.cat((past[1], values), dim=2)
        mixed = attend(queries, seen_keys, seen_values, mask)
        return self.finish(x_BTW, mixed, gate, cond), keys, values

    def project(
        self, x_BTW: Tensor, cos: Tensor, sin: Tensor, cond: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Returns rotated queries (B, N, T, D), rotated keys, values (B, K, T, D), and the gate."""
        normed, gate = self.input_layernorm(x_BTW, cond)
        queries, keys, values = self.self_attn(normed)
        return rotate(queries, cos, sin), rotate(keys, cos, sin), values, gate

    def finish(
        self, x_BTW: Tensor, mixed: Tensor, gate: Tensor | None, cond: Tensor | None
    ) -> Tensor:
        """Adds the attention's output `mixed` (B, T, N * D) and the MLP to the stream."""
        x_BTW = add_gated(x_BTW, self.self_attn.o_proj(mixed), gate)
        normed, gate = self.post_attention_layernorm(x_BTW, cond)
        return add_gated(x_BTW, self.mlp(normed), gate)


class GemmaProjections(Projections):
    """Query, key, value and output projections of one layer, without bias."""

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        width, heads = config.hidden_size, config.num_attention_heads
        self.q_proj = nn.Linear(width, heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(width, config.num_key_value_heads * config.head_dim, bias=False)
        self.v_proj = nn.Linear(width, config.num_key_value_heads * config.head_dim, bias=False)
        self.o_proj = nn.Linear(heads * config.head_dim, width, bias=False)

    def forward(self, x_BTW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries, keys and values, each (B, heads, T, D)."""
        if self.packed is not None:
            queries, keys, values = self.packed(x_BTW)
        else:
            queries, keys, values = self.q_proj(x_BTW), self.k_proj(x_BTW), self.v_proj(x_BTW)
        return self._split_heads(queries), self._split_heads(keys), self._split_heads(values)

    def keys_and_values(self, x_BTW: Tensor) -> tuple[Tensor, Tensor]:
        """Returns keys and values without computing the queries."""
        if self.packed is not None:
            _, keys, values = self.packed(x_BTW)
        else:
            keys, values = self.k_proj(x_BTW), self.v_proj(x_BTW)
        return self._split_heads(keys), self._split_heads(values)

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class GemmaMLP(nn.Module):
    """Gated MLP with the tanh approximation of GELU."""

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = functional.gelu(self.gate_proj(x), approximate="tanh")
        return self.down_proj(gate * self.up_proj(x))


def build_norm(config: GemmaConfig) -> RMSNorm | AdaRMSNorm:
    """Returns the norm this stream uses."""
    if config.cond_dim is not None:
        return AdaRMSNorm(config.hidden_size, config.cond_dim, config.rms_norm_eps)
    return RMSNorm(config.hidden_size, config.rms_norm_eps)


def add_gated(x: Tensor, y: Tensor, gate: Tensor | None) -> Tensor:
    """`x + y * gate`, or `x + y` for the plain norm."""
    return x + y if gate is None else x + y * gate
