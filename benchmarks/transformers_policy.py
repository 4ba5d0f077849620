"""pi0 and pi0.5 in openpi's structure, re-created from `transformers` modules.

The peer of our network in tests and benchmarks. In training both streams go through one loop over
the layers, with eager attention under an additive mask; in sampling the prefix is one call of the
VLM's `GemmaModel` with a cache, and each step builds its mask and calls the expert's `GemmaModel`.
It shares the parameters of one of our networks, so that both fit in memory together.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GemmaConfig, GemmaModel, SiglipVisionConfig, SiglipVisionModel
from transformers.cache_utils import DynamicCache
from transformers.models.gemma.modeling_gemma import (
    GemmaRotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from flux_core.models.pi import ConditionGemmaModel, PI0FlowMatching

FORBIDDEN = -2.3819763e38
VISION = "vision_backbone.vision.vision_model."


class AdaNorm(nn.Module):
    """RMS norm with scale, shift and gate computed from its current condition."""

    def __init__(self, dense: nn.Linear, eps: float) -> None:
        super().__init__()
        self.dense, self.eps = dense, eps
        self.cond = self.gate = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        """Returns the modulated stream; stores the gate for the residual."""
        scale, shift, self.gate = self.dense(self.cond).chunk(3, dim=-1)
        wide = x.float()
        normed = wide / torch.sqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        self.gate = self.gate.to(x.dtype)
        return (normed * (1 + scale.float()) + shift.float()).to(x.dtype)


class GatedLayer(nn.Module):
    """A stock decoder layer whose residuals are multiplied by the gates of its norms."""

    def __init__(self, stock: nn.Module) -> None:
        super().__init__()
        self.self_attn, self.mlp = stock.self_attn, stock.mlp
        self.input_layernorm = stock.input_layernorm
        self.post_attention_layernorm = stock.post_attention_layernorm

    def forward(self, hidden_states: Tensor, **kwargs: object) -> Tensor:
        """Like the stock layer's."""
        normed = self.input_layernorm(hidden_states)
        mixed, _ = self.self_attn(hidden_states=normed, **kwargs)
        hidden_states = hidden_states + mixed * _gate(self.input_layernorm)
        out = self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states + out * _gate(self.post_attention_layernorm)


def _gate(norm: nn.Module) -> Tensor | float:
    return norm.gate if isinstance(norm, AdaNorm) else 1.0


def _entering(stack: GemmaModel, tokens: Tensor) -> Tensor:
    """Tokens as the stack takes them; older versions multiply whatever they are given."""
    is_scaled = hasattr(stack.embed_tokens, "embed_scale")
    return tokens if is_scaled else tokens / math.sqrt(stack.config.hidden_size)


class TransformersPolicy(nn.Module):
    """The peer network; takes its sizes and parameters from `ours`."""

    def __init__(self, ours: PI0FlowMatching) -> None:
        super().__init__()
        self.parts = ours
        self.is_pi05 = ours.kind == "pi05"
        self.vision = _vision_tower(ours)
        self.vlm = _gemma(ours, "llm_backbone")
        self.expert = _gemma(ours, "llm_expert")
        if self.is_pi05:
            _put_in_adaptive_norms(self.expert, ours.llm_expert)

    @property
    def dtype(self) -> torch.dtype:
        """The streams' dtype; the projections from and to actions stay float32."""
        return self.expert.layers[0].self_attn.q_proj.weight.dtype

    def velocity(
        self,
        images: Tensor,
        image_masks: Tensor,
        lang_tokens: Tensor,
        lang_masks: Tensor,
        state: Tensor,
        x_t: Tensor,
        t: Tensor,
    ) -> Tensor:
        """Computes the velocity as in training, in one pass over both streams; `t` is (B,)."""
        prefix, pad, causal = self.embed_prefix(images, image_masks, lang_tokens, lang_masks)
        suffix, suffix_causal = self.embed_suffix(state, x_t, t)
        ones = torch.ones(suffix.shape[:2], dtype=torch.bool, device=pad.device)
        pad = torch.cat((pad, ones), dim=1)
        mask = additive_mask(pad, torch.cat((causal, suffix_causal), dim=1))
        out = self._joint(prefix, suffix, mask, pad.cumsum(1) - 1)
        return self._project(out, x_t)

    def loss(self, batch: dict[str, Tensor], noise: Tensor, t: Tensor) -> Tensor:
        """Returns the mean squared error of the velocity over all steps and dimensions."""
        actions = batch["actions"]
        x_t = t[:, None, None] * noise + (1 - t[:, None, None]) * actions
        observation = (batch[k] for k in ("images", "image_masks", "lang_tokens", "lang_masks"))
        velocity = self.velocity(*observation, batch["states"], x_t, t)
        return functional.mse_loss(velocity, noise - actions)

    @torch.no_grad()
    def sample_actions(
        self,
        images: Tensor,
        image_masks: Tensor,
        lang_tokens: Tensor,
        lang_masks: Tensor,
        state: Tensor,
        noise: Tensor,
        num_inference_steps: int,
    ) -> Tensor:
        """Runs `num_inference_steps` Euler steps after one cached prefix."""
        cache, pad = self.encode(images, image_masks, lang_tokens, lang_masks)
        x_t, time, dt = noise, 1.0, -1.0 / num_inference_steps
        while time >= -dt / 2:
            t = torch.full((len(noise),), time, device=noise.device)
            x_t = x_t + dt * self._denoise(state, x_t, t, cache, pad)
            time += dt
        return x_t

    def encode(
        self, images: Tensor, image_masks: Tensor, lang_tokens: Tensor, lang_masks: Tensor
    ) -> tuple[DynamicCache, Tensor]:
        """Returns the VLM's keys and values, and the prefix's pad mask."""
        prefix, pad, causal = self.embed_prefix(images, image_masks, lang_tokens, lang_masks)
        answer = self.vlm(
            inputs_embeds=_entering(self.vlm, prefix),
            attention_mask=additive_mask(pad, causal),
            position_ids=pad.cumsum(1) - 1,
            use_cache=True,
        )
        return answer.past_key_values, pad

    def embed_prefix(
        self, images: Tensor, image_masks: Tensor, lang_tokens: Tensor, lang_masks: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns tokens, pad mask and causal mask of the cameras and the prompt."""
        tokens, pads = [], []
        for camera in range(images.shape[1]):
            features = self.vision(pixel_values=images[:, camera]).last_hidden_state
            tokens.append(self.parts.projector(features))
            pads.append(image_masks[:, camera, None].expand(-1, features.shape[1]))
        weight = self.parts.llm_backbone.embed_tokens.weight
        tokens.append(functional.embedding(lang_tokens, weight) * math.sqrt(weight.shape[1]))
        pad = torch.cat((*pads, lang_masks), dim=1)
        return torch.cat(tokens, dim=1), pad, torch.zeros_like(pad, dtype=torch.long)

    def embed_suffix(self, state: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Returns tokens and causal mask of the suffix; sets the condition of pi0.5's norms."""
        model = self.parts
        actions = model.action_in_proj(x_t)
        time = time_features(t, actions.shape[-1]).to(actions.dtype)
        causal = torch.zeros(actions.shape[:2], dtype=torch.long, device=t.device)
        causal[:, 0] = 1
        if self.is_pi05:
            hidden = functional.silu(model.time_mlp_in(time))
            self._set_condition(functional.silu(model.time_mlp_out(hidden)))
            return actions.to(self.dtype), causal
        both = torch.cat((actions, time[:, None].expand_as(actions)), dim=-1)
        actions = model.action_time_mlp_out(functional.silu(model.action_time_mlp_in(both)))
        tokens = torch.cat((model.state_proj(state)[:, None], actions), dim=1)
        return tokens.to(self.dtype), torch.cat((torch.ones_like(causal[:, :1]), causal), dim=1)

    def _set_condition(self, cond: Tensor) -> None:
        for module in self.expert.modules():
            if isinstance(module, AdaNorm):
                module.cond = cond[:, None]

    def _joint(self, prefix: Tensor, suffix: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Returns the expert's stream after all layers and the final norm."""
        streams = [prefix, suffix]
        rotary = self.vlm.rotary_emb(prefix, position_ids=positions)
        for layers in zip(self.vlm.layers, self.expert.layers, strict=True):
            mixed = _joint_attention(layers, streams, mask, rotary)
            streams = [
                _finish(layer, x, part.to(x.dtype))
                for layer, x, part in zip(layers, streams, mixed, strict=True)
            ]
        return self.expert.norm(streams[1])

    def _denoise(
        self, state: Tensor, x_t: Tensor, t: Tensor, cache: DynamicCache, prefix_pad: Tensor
    ) -> Tensor:
        """Runs one step; builds mask and positions each time, as openpi does."""
        suffix, causal = self.embed_suffix(state, x_t, t)
        pad = torch.ones(suffix.shape[:2], dtype=torch.bool, device=x_t.device)
        to_prefix = prefix_pad[:, None, :].expand(-1, suffix.shape[1], -1)
        allowed = torch.cat((to_prefix, two_dimensional(pad, causal)), dim=2)
        mask = torch.where(allowed[:, None], 0.0, FORBIDDEN)
        positions = prefix_pad.sum(1, keepdim=True) + pad.cumsum(1) - 1
        out = self.expert(
            inputs_embeds=_entering(self.expert, suffix),
            attention_mask=mask.to(suffix.dtype),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        cache.crop(-suffix.shape[1])
        return self._project(out.last_hidden_state, x_t)

    def _project(self, out: Tensor, x_t: Tensor) -> Tensor:
        return self.parts.action_out_proj(out[:, -x_t.shape[1] :].float())


def _joint_attention(
    layers: tuple[nn.Module, nn.Module],
    streams: list[Tensor],
    mask: Tensor,
    rotary: tuple[Tensor, Tensor],
) -> list[Tensor]:
    """Runs both streams through one attention; each has its own projections."""
    heads: list[list[Tensor]] = []
    for layer, x in zip(layers, streams, strict=True):
        attention, normed = layer.self_attn, layer.input_layernorm(x)
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        shape = (*x.shape[:2], -1, attention.head_dim)
        heads.append([project(normed).view(shape).transpose(1, 2) for project in projections])
    q, k, v = (torch.cat(pair, dim=2) for pair in zip(*heads, strict=True))
    q, k = apply_rotary_pos_emb(q, k, *rotary)
    attention = layers[0].self_attn
    mixed, _ = eager_attention_forward(attention, q, k, v, mask, attention.scaling)
    return list(mixed.flatten(2).split([x.shape[1] for x in streams], dim=1))


def _finish(layer: nn.Module, x: Tensor, mixed: Tensor) -> Tensor:
    x = x + layer.self_attn.o_proj(mixed) * _gate(layer.input_layernorm)
    out = layer.mlp(layer.post_attention_layernorm(x))
    return x + out * _gate(layer.post_attention_layernorm)


def two_dimensional(pad: Tensor, causal: Tensor) -> Tensor:
    """(B, T, T) bool: i sees j if cumsum(causal)[j] <= cumsum(causal)[i] and neither is padding."""
    order = causal.cumsum(1)
    return (order[:, None, :] <= order[:, :, None]) & pad[:, None, :] & pad[:, :, None]


def additive_mask(pad: Tensor, causal: Tensor) -> Tensor:
    """(B, 1, T, T): 0 where attention is allowed, and a large negative number elsewhere."""
    return torch.where(two_dimensional(pad, causal)[:, None], 0.0, FORBIDDEN)


def time_features(t: Tensor, width: int) -> Tensor:
    """Returns sines and cosines with periods from 4e-3 to 4, computed in float64."""
    fraction = torch.linspace(0, 1, width // 2, dtype=torch.float64, device=t.device)
    period = 4e-3 * (4.0 / 4e-3) ** fraction
    angle = t.double()[:, None] * (2 * math.pi / period)
    return torch.cat((angle.sin(), angle.cos()), dim=-1).float()


def _vision_tower(ours: PI0FlowMatching) -> SiglipVisionModel:
    vision = ours.config.vision_backbone.vision_config
    config = SiglipVisionConfig(
        hidden_size=vision.hidden_size,
        intermediate_size=vision.intermediate_size,
        num_hidden_layers=vision.num_hidden_layers,
        num_attention_heads=vision.num_attention_heads,
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        layer_norm_eps=vision.layer_norm_eps,
        hidden_act="gelu_pytorch_tanh",
        vision_use_head=False,
        attn_implementation="eager",
    )
    with torch.device("meta"):
        tower = SiglipVisionModel(config)
    weights = ours.state_dict(keep_vars=True)
    named = {k.removeprefix(VISION): v for k, v in weights.items() if k.startswith(VISION)}
    core = getattr(tower, "vision_model", tower)  # the encoder itself, which some versions wrap
    core.load_state_dict(named, assign=True)
    num_tokens = (vision.image_size // vision.patch_size) ** 2
    core.embeddings.position_ids = torch.arange(
        num_tokens, device=named["post_layernorm.weight"].device
    )[None]
    return tower.eval()


def _gemma(ours: PI0FlowMatching, part: str) -> GemmaModel:
    stack: ConditionGemmaModel = getattr(ours, part)
    sizes = stack.config
    config = GemmaConfig(
        vocab_size=1,
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.intermediate_size,
        num_hidden_layers=sizes.num_hidden_layers,
        num_attention_heads=sizes.num_attention_heads,
        num_key_value_heads=sizes.num_key_value_heads,
        head_dim=sizes.head_dim,
        rms_norm_eps=sizes.rms_norm_eps,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="eager",
    )
    with torch.device("meta"):
        model = GemmaModel(config)
    weights = {k: v for k, v in stack.state_dict(keep_vars=True).items() if ".dense." not in k}
    weights.pop("embed_tokens.weight", None)
    problems = model.load_state_dict(weights, assign=True, strict=False)
    left = [k for k in problems.missing_keys if "norm" not in k and "embed_tokens" not in k]
    if left or problems.unexpected_keys:
        raise ValueError(f"{part}: {left or problems.unexpected_keys} do not fit")
    model.rotary_emb = GemmaRotaryEmbedding(config).to(next(stack.parameters()).device)
    return model.eval()


def _put_in_adaptive_norms(model: GemmaModel, stack: ConditionGemmaModel) -> None:
    eps = stack.config.rms_norm_eps
    for index, block in enumerate(stack.blocks):
        layer = GatedLayer(model.layers[index])
        layer.input_layernorm = AdaNorm(block.input_layernorm.dense, eps)
        layer.post_attention_layernorm = AdaNorm(block.post_attention_layernorm.dense, eps)
        model.layers[index] = layer
    model.norm = AdaNorm(stack.norm.dense, eps)
