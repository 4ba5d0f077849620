"""GR00T-N1.5: a vision-language prefix, a mixer over it, and a diffusion transformer that reads it.

`prefix` and `denoise` are the whole network (see `flow/policy.py`). SigLIP's patches take their
places in the prompt, a causal language model and the mixer read it, and what the denoising steps
need is the result's keys and values for every cross-attention layer, (B, N, P, D) each. Padding and
missing cameras are masked everywhere, so a sample's actions do not depend on the batch it is in.

Our time is 1 at noise; GR00T's own, and its velocity, run the other way (see `times.py`).

Shape legend: B batch, C cameras, L = P prompt tokens with those of the images, H action steps, A
action dimensions, S state dimensions, W width of the DiT, N heads, D head dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from ...config import check_at_least
from ...errors import ConfigError, DataError
from ...norm_stats import NormType
from ...transforms import Rule, Transform, gr00t_observation, rules
from ..flow.checkpoints import CheckpointFamily
from ..flow.policy import FlowPolicy, PrefixCache, Size, freeze_parts
from ..flow.tables import AngleTable, StepIndex, StepTable
from ..layers.basic import LinearProjector, additive_mask
from ..layers.initialization import init_from_scratch
from ..layers.siglip import SigLIPViTBackbone
from ..layers.vision_backbone import VisionBackbone
from .checkpoints import GR00T_CHECKPOINTS
from .dit import AdaLayerNorm, DiT
from .embodiments import ActionEncoder, EmbodimentLinear, EmbodimentMLP, Embodiments
from .image_tokens import ImagePlaces, with_images
from .mixer import NORM_EPS, VLSelfAttention
from .qwen import Qwen3Backbone
from .sizes import WORDS, sized_gr00t
from .times import sample_time

EXAMPLE_CAMERAS = 3
ACTION_PROJECTORS = ("state_encoder", "action_encoder", "action_decoder", "position_embedding")
"""What NVIDIA's `tune_projector` trains."""


def _full_projector() -> LinearProjector.Config:
    return LinearProjector.Config(in_dim=1152, out_dim=2048)


class GR00TFlowMatching(FlowPolicy):
    """The GR00T-N1.5 policy."""

    kind: ClassVar[str] = "gr00t"
    checkpoints: ClassVar[CheckpointFamily] = GR00T_CHECKPOINTS
    streams = ("vision_backbone", "projector", "llm_backbone", "vlln", "vl_self_attention", "dit")

    @dataclass(frozen=True, kw_only=True)
    class Config(FlowPolicy.Config):
        """Besides the settings of every network (sizes default to GR00T-N1.5-3B's):

        States have `max_state_dim` dimensions and actions `max_action_dim`, padding included. Each
        of `num_embodiments` has its own encoders and decoder, chosen by the sample's
        `embodiment_ids`. `hidden_size` is the width between the two layers of state encoder and
        decoder, and the DiT's output. Up to `num_positions` action steps can be predicted. A
        freeze flag freezes its part, adapters and dropout included; `freeze_vlm_backbone` is
        vision backbone, projector and language model.
        """

        n_action_steps: int = 16
        num_inference_steps: int = 4
        lora_target_modules: tuple[str, ...] = ("to_q", "to_k", "to_v")
        vision_backbone: VisionBackbone.Config = field(default_factory=SigLIPViTBackbone.Config)
        projector: LinearProjector.Config = field(default_factory=_full_projector)
        llm_backbone: Qwen3Backbone.Config = field(default_factory=Qwen3Backbone.Config)
        vl_self_attention: VLSelfAttention.Config = field(default_factory=VLSelfAttention.Config)
        dit: DiT.Config = field(default_factory=DiT.Config)
        image_places: ImagePlaces = field(default_factory=ImagePlaces)
        max_state_dim: int = 64
        max_action_dim: int = 32
        hidden_size: int = 1024
        num_future_tokens: int = 32
        num_positions: int = 1024
        num_embodiments: int = 32
        freeze_vision_backbone: bool = False
        freeze_projector: bool = False
        freeze_llm_backbone: bool = False
        freeze_vlm_backbone: bool = False
        freeze_mixer: bool = False
        freeze_action_projectors: bool = False
        freeze_dit: bool = False

        rules: ClassVar[Mapping[str, Rule]] = {
            **rules(
                "checked",
                "the network's own sizes, which are checked against each other and come with the "
                "weights",
                *("vision_backbone", "projector", "llm_backbone", "vl_self_attention", "dit"),
                *("image_places", "max_state_dim", "max_action_dim", "hidden_size"),
                "num_embodiments",
            ),
            **rules(
                "free",
                "sizes inside the network, which come with the weights",
                *("num_future_tokens", "num_positions"),
            ),
            **rules(
                "free",
                "decides how the network learns, not what it takes or gives",
                *("freeze_vision_backbone", "freeze_projector", "freeze_llm_backbone"),
                *("freeze_vlm_backbone", "freeze_mixer", "freeze_action_projectors", "freeze_dit"),
            ),
        }

        norm_type: ClassVar[NormType] = "min_max"

        def __post_init__(self) -> None:
            check_dimensions(self)
            super().__post_init__()

        def build(self) -> GR00TFlowMatching:
            return GR00TFlowMatching(self)

        @property
        def action_dim(self) -> int:
            return self.max_action_dim

        @property
        def state_dim(self) -> int:
            return self.max_state_dim

        @property
        def image_size(self) -> tuple[int, int]:
            return self.vision_backbone.image_size

        @property
        def vocab_size(self) -> int:
            return self.llm_backbone.vocab_size

        @property
        def reads_state(self) -> bool:
            return True

        @property
        def pixel_range(self) -> tuple[float, float] | None:
            return self.vision_backbone.pixel_range

        @property
        def needs_pixel_range(self) -> bool:
            return self.vision_backbone.needs_pixel_range

        @property
        def embodiments(self) -> int:
            return self.num_embodiments

        def frozen_parts(self) -> tuple[str, ...]:
            flags = {
                ("vision_backbone",): self.freeze_vision_backbone or self.freeze_vlm_backbone,
                ("projector",): self.freeze_projector or self.freeze_vlm_backbone,
                ("llm_backbone",): self.freeze_llm_backbone or self.freeze_vlm_backbone,
                ("vlln", "vl_self_attention"): self.freeze_mixer,
                ACTION_PROJECTORS: self.freeze_action_projectors,
                ("dit", "future_tokens"): self.freeze_dit,
            }
            return tuple(name for names, is_frozen in flags.items() if is_frozen for name in names)

        def sample_time(
            self, rows: int, *, generator: torch.Generator | None, device: torch.device
        ) -> Tensor:
            return sample_time(rows, generator=generator, device=device)

        @classmethod
        def sized(cls, size: Size) -> dict[str, Any]:
            return sized_gr00t(size)

        def example_transforms(self) -> Sequence[Transform]:
            image_tokens = self.vision_backbone.num_tokens
            return gr00t_observation(
                WORDS,
                # A label, `<img>` and `</img>` for each image, and the task.
                prompt_tokens=EXAMPLE_CAMERAS * (image_tokens + 3) + 40,
                num_images=EXAMPLE_CAMERAS,
                image_tokens=image_tokens,
                state_dim=self.max_state_dim,
                image_size=self.image_size,
            )

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width, embodiments = config.dit.width, config.num_embodiments
        self.vision_backbone = config.vision_backbone.build()
        self.projector = config.projector.build()
        self.llm_backbone = config.llm_backbone.build()
        self.vlln = nn.LayerNorm(config.llm_backbone.hidden_size, eps=NORM_EPS)
        self.vl_self_attention = config.vl_self_attention.build()
        self.state_encoder = EmbodimentMLP(
            embodiments, config.max_state_dim, config.hidden_size, width
        )
        self.action_encoder = ActionEncoder(embodiments, config.max_action_dim, width)
        self.action_decoder = EmbodimentMLP(
            embodiments, config.hidden_size, config.hidden_size, config.max_action_dim
        )
        self.future_tokens = nn.Embedding(config.num_future_tokens, width)
        self.position_embedding = nn.Embedding(config.num_positions, width)
        self.dit = config.dit.build()
        init_from_scratch(self)
        self._init_blocks()
        freeze_parts(self)

    @torch.no_grad()
    def _init_blocks(self) -> None:
        """Starts every block of the DiT as the identity, and every modulated norm as a plain one.

        Trained weights replace this. From scratch, the loss falls twice as fast in the first
        hundreds of steps as with random output projections.
        """
        norms = [module for module in self.dit.modules() if isinstance(module, AdaLayerNorm)]
        linears = [self.dit.proj_out_1, *(norm.linear for norm in norms)]
        for block in self.dit.blocks:
            linears += [cast(nn.Linear, block.attn1.to_out[0]), cast(nn.Linear, block.ff.net[2])]
        for linear in linears:
            linear.weight.zero_()
            linear.bias.zero_()

    def train(self, mode: bool = True) -> GR00TFlowMatching:
        """Turns dropout on, but not in frozen parts."""
        super().train(mode)
        for name in self.config.frozen_parts():
            self.get_submodule(name).eval()
        return self

    def prefix(
        self, images: Tensor, image_masks: Tensor, lang_tokens: Tensor, lang_masks: Tensor
    ) -> PrefixCache:
        x, pad_masks = self.embed_prefix(images, image_masks, lang_tokens, lang_masks)
        x = self.vlln(self.llm_backbone(x, pad_masks))
        x = self.vl_self_attention(x, additive_mask(pad_masks[:, None], 1, x.dtype))
        return PrefixCache(*self.dit.keys_and_values(x), pad_masks)

    def embed_prefix(
        self, images: Tensor, image_masks: Tensor, lang_tokens: Tensor, lang_masks: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the embedded prompt with the images in their places, (B, L, W), and its mask."""
        batch, cameras = images.shape[:2]
        if tuple(images.shape[-2:]) != self.config.image_size:
            raise DataError(
                f"images: expected {self.config.image_size} pixels, got {tuple(images.shape[-2:])}."
                " Resize them first (ResizeImages): one image is one tile here"
            )
        features = self.projector(self.vision_backbone(images.flatten(0, 1)))
        placed = self.config.image_places.locate(
            lang_tokens, lang_masks, image_masks, features.shape[1]
        )
        words = self.llm_backbone.embed(placed.tokens)
        features = features.reshape(batch, cameras * features.shape[1], -1)
        return with_images(words, features, placed), placed.masks

    def suffix_context(self, cache: PrefixCache, horizon: int) -> tuple[Tensor]:
        """Returns the additive mask of the prefix; `horizon` is checked."""
        if horizon > self.config.num_positions:
            raise ConfigError(
                f"n_action_steps: expected at most {self.config.num_positions} (num_positions), "
                f"got {horizon}"
            )
        return (additive_mask(cache.pad_masks[:, None], 1, cache.keys[0].dtype),)

    def denoise(
        self,
        state: Tensor | None,
        x_t: Tensor,
        t: Tensor,
        cache: PrefixCache,
        context: tuple[Tensor, ...] | None = None,
        embodiments: Tensor | None = None,
    ) -> Tensor:
        assert state is not None, "GR00T reads the state as a token"
        horizon = x_t.shape[1]
        (mask,) = self.suffix_context(cache, horizon) if context is None else context
        chosen = Embodiments.of(embodiments, self.config.num_embodiments)
        # A known prefix (real-time chunking) has t = 0 and the time of finished actions in its
        # tokens; the norms take the time of the steps that are still being denoised.
        x = self.embed_suffix(state, x_t, t, chosen).to(self.dit.proj_out_2.weight.dtype)
        hidden = self.dit(x, t.amax(dim=1, keepdim=True), cache.keys, cache.values, mask)
        return -self.action_decoder(hidden[:, -horizon:], chosen)

    def embed_suffix(
        self, state: Tensor, x_t: Tensor, t: Tensor, embodiments: Embodiments
    ) -> Tensor:
        """Returns the DiT's input, (B, 1 + future tokens + H, W) float32."""
        batch, horizon = x_t.shape[:2]
        if state.shape[-1] != self.config.max_state_dim:
            raise DataError(
                f"states: expected {self.config.max_state_dim} dimensions (model.max_state_dim), "
                f"got {state.shape[-1]}. Let state_dim of the normalisation pad them"
            )
        future = self.future_tokens.weight.float().expand(batch, -1, -1)
        actions = self.action_encoder(x_t, t, embodiments)
        actions = actions + self.position_embedding.weight[:horizon]
        return torch.cat((self.state_encoder(state[:, None], embodiments), future, actions), dim=1)

    def load_parts(self) -> None:
        self.vision_backbone.load_own_weights()

    @property
    def num_cached_layers(self) -> int:
        return self.config.dit.num_cross_layers

    @property
    def layers(self) -> list[nn.Module]:
        layers = [*self.llm_backbone.layers, *self.vl_self_attention.blocks, *self.dit.blocks]
        return [*layers, *self.vision_backbone.layers]

    @torch.no_grad()
    def keep_embodiment(self, embodiment: int) -> None:
        count = self.config.num_embodiments
        if not 0 <= embodiment < count:
            raise ConfigError(f"embodiment_id: expected 0 to {count - 1}, got {embodiment}")
        for module in self.modules():
            if isinstance(module, EmbodimentLinear):
                module.keep(embodiment)
        self.config = replace(self.config, num_embodiments=1)  # pyright: ignore[reportIncompatibleVariableOverride]

    @torch.no_grad()
    def tabulate(self, num_inference_steps: int, num_prefix_tokens: int) -> None:
        cos, sin = self.llm_backbone.rotary.angles(torch.arange(num_prefix_tokens)[None])
        self.llm_backbone.rotary.angles = AngleTable(torch.cat((cos, sin), dim=-1)[0, 0])
        times = torch.arange(num_inference_steps + 1, dtype=torch.float32)[None]
        times = times / num_inference_steps
        features = StepTable(self.action_encoder.time_embedding(times)[0])
        self.action_encoder.time_embedding = nn.Sequential(StepIndex(num_inference_steps), features)
        self.dit.tabulate(times, StepIndex(num_inference_steps))


def check_dimensions(config: GR00TFlowMatching.Config) -> None:
    """Refuses sizes that do not fit together, and names both."""
    check_at_least(
        1,
        config,
        *("max_state_dim", "max_action_dim", "hidden_size", "num_positions", "num_embodiments"),
    )
    check_at_least(0, config, "num_future_tokens")
    width = config.llm_backbone.hidden_size
    expected = {
        "projector.in_dim": (config.projector.in_dim, config.vision_backbone.out_dim),
        "projector.out_dim": (config.projector.out_dim, width),
        "vl_self_attention (heads * head_dim)": (config.vl_self_attention.width, width),
        "dit.cross_attention_dim": (config.dit.cross_attention_dim, width),
        "dit.output_dim": (config.dit.output_dim, config.hidden_size),
    }
    for name, (got, wanted) in expected.items():
        if got != wanted:
            raise ConfigError(f"{name}: expected {wanted} to fit its neighbours, got {got}")
    if config.n_action_steps > config.num_positions:
        raise ConfigError(
            f"n_action_steps: expected at most {config.num_positions} (num_positions), got "
            f"{config.n_action_steps}"
        )
    if config.image_places.token_id >= config.llm_backbone.vocab_size:
        raise ConfigError(
            f"image_places.token_id: expected an id below llm_backbone.vocab_size "
            f"({config.llm_backbone.vocab_size}), got {config.image_places.token_id}"
        )
