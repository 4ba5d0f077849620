"""pi0: a vision-language prefix, an action expert, and flow matching between them.

`prefix` and `denoise` are the whole network (see `flow/policy.py`). The prefix never attends to the
suffix, so its keys and values, (B, K, P, D) per layer and already rotated, are computed once per
observation.

Shape legend: B batch, C cameras, L prompt tokens, P prefix tokens, H action steps, A action
dimensions, W stream width, K key heads, D head dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...errors import ConfigError
from ...tokenizers import ByteTokenizer
from ...transforms import Rule, Transform, pi_observation, rules
from ..flow.checkpoints import CheckpointFamily
from ..flow.policy import FlowPolicy, PrefixCache, Size, freeze_parts
from ..flow.tables import AngleTable, StepIndex, StepTable
from ..layers.basic import LinearProjector, TimeEmbedding, additive_mask
from ..layers.initialization import NumberTokens, init_from_scratch, init_number_embeddings
from ..layers.vision_backbone import VisionBackbone
from .checkpoints import PI_CHECKPOINTS
from .gemma import ConditionGemmaModel
from .sizes import sized_model


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


class PI0FlowMatching(FlowPolicy):
    """The pi0 policy: state and time reach the expert as tokens."""

    kind: ClassVar[str] = "pi0"
    checkpoints: ClassVar[CheckpointFamily] = PI_CHECKPOINTS
    streams = ("vision_backbone", "projector", "llm_backbone", "llm_expert")
    num_state_tokens: ClassVar[int] = 1

    @dataclass(frozen=True, kw_only=True)
    class Config(FlowPolicy.Config):
        """Besides the settings of every network:

        `number_tokens` only matters when training from scratch: their embeddings start as smooth
        curves. `actions_per_token` is 1 in pi0 and pi0.5; a small policy uses more, to process
        fewer tokens. The action projections then have `actions_per_token * action_dim` dimensions.
        A freeze flag freezes its part, including adapters. `pretrained_from_pi0` starts a pi0.5
        from a pi0.
        """

        vision_backbone: VisionBackbone.Config
        projector: LinearProjector.Config
        llm_backbone: ConditionGemmaModel.Config
        llm_expert: ConditionGemmaModel.Config
        proj_width: int
        action_in_proj: LinearProjector.Config
        action_out_proj: LinearProjector.Config
        state_proj: LinearProjector.Config | None = None
        max_action_dim: int | None = None
        number_tokens: NumberTokens | None = None
        actions_per_token: int = 1
        freeze_vision_backbone: bool = False
        freeze_llm_backbone: bool = False
        freeze_vlm_backbone: bool = False
        freeze_projector: bool = False
        freeze_llm_expert: bool = False
        lora_target_modules: tuple[str, ...] = ATTENTION_AND_MLP
        pretrained_from_pi0: bool = False

        prompt_tokens: ClassVar[int] = 48
        """The length of openpi's prompts."""
        rules: ClassVar[Mapping[str, Rule]] = {
            **rules(
                "checked",
                "the network's own sizes, which are checked against each other and come with the "
                "weights",
                *("vision_backbone", "projector", "llm_backbone", "llm_expert", "proj_width"),
                *("action_in_proj", "action_out_proj", "state_proj", "max_action_dim"),
                *("number_tokens", "actions_per_token"),
            ),
            **rules(
                "free",
                "decides how the network learns, not what it takes or gives",
                *("freeze_vision_backbone", "freeze_llm_backbone", "freeze_vlm_backbone"),
                *("freeze_projector", "freeze_llm_expert", "pretrained_from_pi0"),
            ),
        }
        ignored_on_resume: ClassVar[Mapping[str, str]] = {
            **FlowPolicy.Config.ignored_on_resume,
            "pretrained_from_pi0": "the checkpoint has the weights",
            "max_action_dim": "a check of action_in_proj",
            "number_tokens": "the embeddings before the first step",
        }

        def __post_init__(self) -> None:
            check_dimensions(self)
            super().__post_init__()

        def build(self) -> PI0FlowMatching:
            return PI0FlowMatching(self)

        @property
        def action_dim(self) -> int:
            return self.action_in_proj.in_dim // self.actions_per_token

        @property
        def image_size(self) -> tuple[int, int]:
            return self.vision_backbone.image_size

        @property
        def vocab_size(self) -> int:
            return self.llm_backbone.vocab_size or 0

        @property
        def reads_state(self) -> bool:
            return self.state_proj is not None

        @property
        def pixel_range(self) -> tuple[float, float] | None:
            return self.vision_backbone.pixel_range

        @property
        def needs_pixel_range(self) -> bool:
            return self.vision_backbone.needs_pixel_range

        @property
        def prefix_stride(self) -> int:
            return self.actions_per_token

        @property
        def pretrained_from(self) -> str | None:
            return "pi0" if self.pretrained_from_pi0 else None

        def frozen_parts(self) -> tuple[str, ...]:
            flags = {
                "vision_backbone": self.freeze_vision_backbone or self.freeze_vlm_backbone,
                "projector": self.freeze_projector or self.freeze_vlm_backbone,
                "llm_backbone": self.freeze_llm_backbone or self.freeze_vlm_backbone,
                "llm_expert": self.freeze_llm_expert,
            }
            return tuple(name for name, is_frozen in flags.items() if is_frozen)

        def sample_time(
            self, rows: int, *, generator: torch.Generator | None, device: torch.device
        ) -> Tensor:
            """Draws from Beta(1.5, 1) * 0.999 + 0.001 (openpi `sample_beta`).

            Beta(a, 1) has the distribution function t^a, so the inverse is exact: U^(1/a).
            """
            uniform = torch.rand(rows, generator=generator, device=device)
            return uniform ** (1.0 / 1.5) * 0.999 + 0.001

        @classmethod
        def sized(cls, size: Size) -> dict[str, Any]:
            return sized_model("pi0", size)

        def example_transforms(self) -> Sequence[Transform]:
            return pi_observation(
                ByteTokenizer(),
                prompt_tokens=self.prompt_tokens,
                state_in_prompt=self.state_in_prompt,
                state_dim=self.action_dim,
                image_size=self.image_size,
            )

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config  # pyright: ignore[reportIncompatibleVariableOverride]
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
        context: tuple[Tensor, ...] | None = None,
        embodiments: Tensor | None = None,
    ) -> Tensor:
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

    def load_parts(self) -> None:
        self.vision_backbone.load_own_weights()

    @property
    def num_cached_layers(self) -> int:
        return self.llm_backbone.config.num_hidden_layers

    @property
    def layers(self) -> list[nn.Module]:
        streams = (*self.llm_backbone.blocks, *self.llm_expert.blocks)
        return [*streams, *self.vision_backbone.layers]

    def without_effect(self) -> list[str]:
        """Only the keys and values of the prefix's last layer are read."""
        last = f"llm_backbone.layers.{self.num_cached_layers - 1}"
        idle = ("self_attn.q_proj", "self_attn.o_proj", "post_attention_layernorm", "mlp")
        prefixes = (*(f"{last}.{part}." for part in idle), "llm_backbone.norm.")
        return [name for name, _ in self.named_parameters() if name.startswith(prefixes)]

    @torch.no_grad()
    def tabulate(self, num_inference_steps: int, num_prefix_tokens: int) -> None:
        times = torch.arange(num_inference_steps + 1, dtype=torch.float32) / num_inference_steps
        self._tabulate_times(times[None], num_inference_steps)
        num_suffix_tokens = self.num_suffix_tokens(self.config.n_action_steps)
        positions = torch.arange(num_prefix_tokens + num_suffix_tokens)[None]
        for stream in (self.llm_backbone, self.llm_expert):
            cos, sin = stream.angles(positions)
            stream.angles = AngleTable(torch.cat((cos, sin), dim=-1)[0, 0])

    def _tabulate_times(self, times: Tensor, num_inference_steps: int) -> None:
        table = StepTable(self.time_embedding(times)[0])
        self.time_embedding = nn.Sequential(StepIndex(num_inference_steps), table)

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
