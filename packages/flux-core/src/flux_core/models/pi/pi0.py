"""pi0: a vision-language prefix, an action expert, and flow matching between them.

Two functions are the whole network, shared by training, export and every fast path:

    prefix(images, image_masks, lang_tokens, lang_masks) -> PrefixCache
    denoise(state, x_t, t, cache) -> velocity

The prefix never attends to the suffix, so its keys and values are computed once per observation.
Convention: t = 1 is noise, t = 0 is data, `x_t = t * noise + (1 - t) * actions`, and the velocity
is `u_t = noise - actions`.

Shape legend: B batch, C cameras, L prompt tokens, P prefix tokens, H action steps, A action
dimensions, W stream width, K key heads, D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...config import check_at_least
from ...errors import ConfigError
from ...rtc import RTCTrainingConfig
from ..layers.basic import LinearProjector, TimeEmbedding, additive_mask
from ..layers.conv_backbone import ConvBackbone
from ..layers.initialization import NumberTokens, init_from_scratch, init_number_embeddings
from ..layers.siglip import SigLIPViTBackbone
from .gemma import ConditionGemmaModel


class PrefixCache(NamedTuple):
    """The parts of the prefix that the suffix needs.

    Attributes:
        keys: one (B, K, P, D) tensor per layer, already rotated.
        values: one (B, K, P, D) tensor per layer.
        pad_masks: (B, P) bool, True = real token.
    """

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    pad_masks: Tensor

    def repeat(self, times: int) -> PrefixCache:
        """Returns the cache with each sample `times` times in a row along the batch."""
        if times == 1:
            return self
        return PrefixCache(
            [key.repeat_interleave(times, dim=0) for key in self.keys],
            [value.repeat_interleave(times, dim=0) for value in self.values],
            self.pad_masks.repeat_interleave(times, dim=0),
        )


class Suffix(NamedTuple):
    """The expert's input: (B, T, W) tokens and their adaRMS condition."""

    tokens: Tensor
    cond: Tensor | None


class SuffixContext(NamedTuple):
    """What all denoising steps of one observation share: the additive `mask` of the suffix, and the
    rotary `cos` and `sin` of its positions."""

    mask: Tensor
    cos: Tensor
    sin: Tensor


# Every linear layer of a Gemma block.
ATTENTION_AND_MLP = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class PI0FlowMatching(nn.Module):
    """The pi0 policy: state and time reach the expert as tokens."""

    kind: ClassVar[str] = "pi0"
    num_state_tokens: ClassVar[int] = 1

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The network. `n_action_steps` is the number of *predicted* steps (action_horizon).

        `number_tokens` only matters when training from scratch: their embeddings start as smooth
        curves. `actions_per_token` is 1 in pi0 and pi0.5; a small policy uses more, to process
        fewer tokens. The action projections then have `actions_per_token * action_dim` dimensions.
        `pretrained_name_or_path` is a local checkpoint that training starts from, of any project
        (see `pretrained.py`, also for `pretrained_adapt` and `pretrained_from_pi0`). A freeze flag
        freezes its part, including adapters; `use_lora` trains only adapters and `modules_to_save`
        (see `lora.py`). `rtc_training_config` trains with random prefixes (see `flux_core.rtc`).
        `action_smoothing` smooths sampled chunks over so many steps (see `smoothing.py`); 0 is off,
        and no training step depends on it.
        """

        vision_backbone: SigLIPViTBackbone.Config | ConvBackbone.Config
        projector: LinearProjector.Config
        llm_backbone: ConditionGemmaModel.Config
        llm_expert: ConditionGemmaModel.Config
        proj_width: int
        n_action_steps: int
        action_in_proj: LinearProjector.Config
        action_out_proj: LinearProjector.Config
        state_proj: LinearProjector.Config | None = None
        max_action_dim: int | None = None
        loss_action_dim: int | None = None
        num_inference_steps: int = 10
        number_tokens: NumberTokens | None = None
        actions_per_token: int = 1
        freeze_vision_backbone: bool = False
        freeze_llm_backbone: bool = False
        freeze_vlm_backbone: bool = False
        freeze_projector: bool = False
        freeze_llm_expert: bool = False
        use_lora: bool = False
        lora_rank: int = 16
        lora_alpha: int = 16
        lora_dropout: float = 0.0
        lora_target_modules: tuple[str, ...] = ATTENTION_AND_MLP
        modules_to_save: tuple[str, ...] = ()
        rtc_training_config: RTCTrainingConfig | None = None
        action_smoothing: float = 0.0
        pretrained_name_or_path: str | None = None
        pretrained_adapt: Literal["slice", "reinit"] | None = None
        pretrained_from_pi0: bool = False

        def __post_init__(self) -> None:
            check_dimensions(self)

        @property
        def action_dim(self) -> int:
            """Dimensions of x_t."""
            return self.action_in_proj.in_dim // self.actions_per_token

        def build(self) -> PI0FlowMatching:
            return PI0FlowMatching(self)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.vision_backbone = config.vision_backbone.build()
        self.projector = config.projector.build()
        self.llm_backbone = config.llm_backbone.build(with_embedding=True)
        self.llm_expert = config.llm_expert.build(with_embedding=False)
        self.action_in_proj = config.action_in_proj.build()
        self.action_out_proj = config.action_out_proj.build()
        self.time_embedding: nn.Module = TimeEmbedding(config.proj_width)
        self._build_time_mlp(config)
        init_from_scratch(self)
        if config.number_tokens is not None:
            init_number_embeddings(self.llm_backbone.embed_tokens.weight, config.number_tokens)
        freeze_parts(self)

    def _build_time_mlp(self, config: Config) -> None:
        if config.state_proj is None:
            raise ConfigError("state_proj: pi0 needs a LinearProjector from the state, got None")
        width = config.proj_width
        self.state_proj = config.state_proj.build()
        self.action_time_mlp_in = LinearProjector.Config(in_dim=2 * width, out_dim=width).build()
        self.action_time_mlp_out = LinearProjector.Config(in_dim=width, out_dim=width).build()

    def prefix(
        self, images: Tensor, image_masks: Tensor, lang_tokens: Tensor, lang_masks: Tensor
    ) -> PrefixCache:
        """Encodes images and prompt.

        Args:
            images: (B, C, 3, height, width) float32, normalised as the backbone expects.
            image_masks: (B, C) bool, False = this camera is missing.
            lang_tokens: (B, L) int64, right-padded.
            lang_masks: (B, L) bool, True = real token.
        """
        x, pad_masks = self.embed_prefix(images, image_masks, lang_tokens, lang_masks)
        config = self.llm_backbone.config
        cos, sin = self.llm_backbone.angles(pad_masks.cumsum(1) - 1)
        mask = additive_mask(pad_masks[:, None, :], self._group, x.dtype)
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for index, layer in enumerate(self.llm_backbone.blocks):
            # Only the keys and values of the last layer are used.
            is_last = index + 1 == config.num_hidden_layers
            x, k, v = layer(x, (cos, sin), mask, only_keys=is_last)
            keys.append(k)
            values.append(v)
        return PrefixCache(keys, values, pad_masks)

    def embed_prefix(
        self, images: Tensor, image_masks: Tensor, lang_tokens: Tensor, lang_masks: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the prefix tokens (B, P, W), cameras first, and their mask (B, P)."""
        batch, cameras = images.shape[:2]
        patches = self.projector(self.vision_backbone(images.flatten(0, 1)))
        num_tokens = patches.shape[1]
        patches = patches.unflatten(0, (batch, cameras)).flatten(1, 2)
        words = self.llm_backbone.embed(lang_tokens).to(patches.dtype)
        patch_masks = image_masks[:, :, None].expand(-1, -1, num_tokens).flatten(1)
        return torch.cat((patches, words), dim=1), torch.cat((patch_masks, lang_masks), dim=1)

    def denoise(
        self,
        state: Tensor | None,
        x_t: Tensor,
        t: Tensor,
        cache: PrefixCache,
        context: SuffixContext | None = None,
    ) -> Tensor:
        """Predicts the velocity `noise - actions`.

        Args:
            state: (B, state_dim) float32, normalised; unused by pi0.5.
            x_t: (B, H, A) float32; never written to.
            t: (B, H) or (B, 1) float32, the time of each action step.
            cache: the prefix.
            context: `suffix_context` of the cache, if several steps share it.

        Returns:
            (B, H, A) float32.
        """
        if (group := self.config.actions_per_token) > 1:
            # All steps of a token use the time of its first step.
            t = t[:, ::group]
        if context is None:
            context = self.suffix_context(cache, x_t.shape[1])
        suffix = self.embed_suffix(state, x_t.unflatten(1, (-1, group)).flatten(2), t)
        mask, cos, sin = context
        # In a half-precision network, the stream begins after the float32 projections.
        x = suffix.tokens.to(cache.keys[0].dtype)
        prefixes = zip(cache.keys, cache.values, strict=True)
        for layer, past in zip(self.llm_expert.blocks, prefixes, strict=True):
            x, _, _ = layer(x, (cos, sin), mask, cond=suffix.cond, past=past)
        x, _ = self.llm_expert.norm(x, suffix.cond)
        return self.velocity(x[:, self.num_state_tokens :]).reshape(x_t.shape)

    @property
    def _group(self) -> int:
        """The number of query heads for each key head, in both streams."""
        config = self.llm_backbone.config
        return config.num_attention_heads // config.num_key_value_heads

    def num_suffix_tokens(self, horizon: int) -> int:
        """Returns the number of tokens for the state and `horizon` action steps."""
        return self.num_state_tokens + horizon // self.config.actions_per_token

    def suffix_context(self, cache: PrefixCache, horizon: int) -> SuffixContext:
        """Returns mask and rotary angles of a suffix of `horizon` steps after this prefix."""
        num_tokens = self.num_suffix_tokens(horizon)
        prefix_length = cache.pad_masks.sum(dim=1, keepdim=True)
        positions = prefix_length + torch.arange(num_tokens, device=cache.pad_masks.device)
        cos, sin = self.llm_expert.angles(positions)
        mask = self.suffix_mask(cache.pad_masks, num_tokens, self.num_state_tokens)
        return SuffixContext(additive_mask(mask, self._group, cache.keys[0].dtype), cos, sin)

    def velocity(self, hidden: Tensor) -> Tensor:
        """Applies the last projection, always in float32."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.action_out_proj(hidden.float())

    def embed_suffix(self, state: Tensor | None, x_t: Tensor, t: Tensor) -> Suffix:
        """Returns the expert's input tokens and their condition."""
        assert state is not None, "pi0 reads the state as a token"
        actions = self.action_in_proj(x_t)
        time = self.time_embedding(t).to(actions.dtype).expand(-1, actions.shape[1], -1)
        hidden = self.action_time_mlp_in(torch.cat((actions, time), dim=-1))
        actions = self.action_time_mlp_out(functional.silu(hidden))
        return Suffix(torch.cat((self.state_proj(state)[:, None], actions), dim=1), None)

    @staticmethod
    def suffix_mask(pad_masks: Tensor, num_tokens: int, num_state_tokens: int) -> Tensor:
        """(B, T, P + T): the state attends to itself, actions to everything; T is 1 without state.

        Without a state token, all rows are equal, so one row represents them.
        """
        batch = pad_masks.shape[0]
        is_action = torch.arange(num_tokens, device=pad_masks.device) >= num_state_tokens
        rows = is_action if num_state_tokens else is_action[:1]
        own = rows[:, None] | ~is_action[None, :]
        return torch.cat(
            (
                pad_masks[:, None, :].expand(batch, len(own), -1),
                own[None].expand(batch, -1, -1),
            ),
            dim=2,
        )


def check_dimensions(config: PI0FlowMatching.Config) -> None:
    """Refuses sizes that do not fit together, and names both."""
    vlm, expert = config.llm_backbone, config.llm_expert
    for field in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"):
        if getattr(vlm, field) != getattr(expert, field):
            raise ConfigError(
                f"llm_expert.{field}: expected {getattr(vlm, field)} as in llm_backbone (both "
                f"streams share one attention), got {getattr(expert, field)}"
            )
    check_at_least(
        1,
        config,
        *("num_inference_steps", "n_action_steps", "loss_action_dim", "lora_rank", "lora_alpha"),
    )
    expected = {
        "projector.in_dim": (config.projector.in_dim, config.vision_backbone.out_dim),
        "projector.out_dim": (config.projector.out_dim, vlm.hidden_size),
        "proj_width": (config.proj_width, expert.hidden_size),
        "action_in_proj.out_dim": (config.action_in_proj.out_dim, expert.hidden_size),
        "action_out_proj.in_dim": (config.action_out_proj.in_dim, expert.hidden_size),
        "action_out_proj.out_dim": (config.action_out_proj.out_dim, config.action_in_proj.in_dim),
    }
    if config.actions_per_token < 1 or config.n_action_steps % config.actions_per_token:
        raise ConfigError(
            f"actions_per_token: expected a divisor of n_action_steps ({config.n_action_steps}), "
            f"got {config.actions_per_token}"
        )
    if config.action_in_proj.in_dim % config.actions_per_token:
        raise ConfigError(
            f"actions_per_token: expected a divisor of action_in_proj.in_dim "
            f"({config.action_in_proj.in_dim}), got {config.actions_per_token}"
        )
    if config.max_action_dim is not None:
        expected["max_action_dim"] = (config.max_action_dim, config.action_dim)
    if config.state_proj is not None:
        expected["state_proj.out_dim"] = (config.state_proj.out_dim, expert.hidden_size)
    for field, (got, wanted) in expected.items():
        if got != wanted:
            raise ConfigError(f"{field}: expected {wanted} to fit its neighbours, got {got}")
    if (numbers := config.number_tokens) is not None:
        end, vocab_size = numbers.first + numbers.tables * numbers.size, vlm.vocab_size or 0
        if end > vocab_size:
            raise ConfigError(
                f"number_tokens: expected ids below llm_backbone.vocab_size ({vocab_size}), got "
                f"{end - 1}"
            )
    check_adaptation(config)
    if config.loss_action_dim is not None and config.loss_action_dim > config.action_dim:
        raise ConfigError(
            f"loss_action_dim: expected at most {config.action_dim} (action_in_proj.in_dim), "
            f"got {config.loss_action_dim}"
        )


def check_adaptation(config: PI0FlowMatching.Config) -> None:
    """Refuses LoRA, RTC and smoothing settings that contradict the rest."""
    if not 0.0 <= config.action_smoothing <= config.n_action_steps:
        raise ConfigError(
            f"action_smoothing: expected 0 to {config.n_action_steps} steps (n_action_steps), got "
            f"{config.action_smoothing}"
        )
    if not 0.0 <= config.lora_dropout < 1.0:
        raise ConfigError(f"lora_dropout: expected 0 <= share < 1, got {config.lora_dropout}")
    frozen = [name for name in config.modules_to_save if name in frozen_parts(config)]
    if frozen:
        raise ConfigError(
            f"modules_to_save: {frozen[0]!r} would be trained, but a freeze flag freezes it. "
            "Remove one of them"
        )
    rtc = config.rtc_training_config
    if rtc is not None and rtc.max_delay > config.n_action_steps:
        raise ConfigError(
            f"rtc_training_config.max_delay: expected at most {config.n_action_steps} "
            f"(n_action_steps), got {rtc.max_delay}"
        )


def frozen_parts(config: PI0FlowMatching.Config) -> tuple[str, ...]:
    """Returns the names of the parts that the config freezes."""
    flags = {
        "vision_backbone": config.freeze_vision_backbone or config.freeze_vlm_backbone,
        "projector": config.freeze_projector or config.freeze_vlm_backbone,
        "llm_backbone": config.freeze_llm_backbone or config.freeze_vlm_backbone,
        "llm_expert": config.freeze_llm_expert,
    }
    return tuple(name for name, is_frozen in flags.items() if is_frozen)


def without_effect(model: PI0FlowMatching) -> list[str]:
    """Parameters that affect no action: only keys of the prefix's last layer are read."""
    last = f"llm_backbone.layers.{model.config.llm_backbone.num_hidden_layers - 1}"
    idle = ("self_attn.q_proj", "self_attn.o_proj", "post_attention_layernorm", "mlp")
    prefixes = (*(f"{last}.{part}." for part in idle), "llm_backbone.norm.")
    return [name for name, _ in model.named_parameters() if name.startswith(prefixes)]


def freeze_parts(model: PI0FlowMatching) -> None:
    """Turns off the gradient of every part the config freezes.

    Raises:
        ConfigError: a part has no parameters to freeze.
    """
    for name in frozen_parts(model.config):
        parameters = list(model.get_submodule(name).parameters())
        if not parameters:
            raise ConfigError(f"freeze_{name}: {name} has no parameters, so nothing would freeze")
        for parameter in parameters:
            parameter.requires_grad_(False)
