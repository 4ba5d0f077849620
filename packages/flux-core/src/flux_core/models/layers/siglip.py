"""SigLIP's vision transformer (So400m/14 at full size), as used by PaliGemma."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from torch import Tensor, nn
from torch.nn import functional

from ...config import check_at_least
from ...errors import ConfigError
from .packing import Projections
from .vision_backbone import VisionBackbone


@dataclass(frozen=True, kw_only=True)
class SigLIPVisionConfig:
    """Sizes of the tower; the defaults are So400m/14 at 224 px (256 tokens per image)."""

    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_hidden_layers: int = 27
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    num_channels: int = 3
    layer_norm_eps: float = 1e-6
    hidden_act: Literal["gelu_pytorch_tanh"] = "gelu_pytorch_tanh"

    def __post_init__(self) -> None:
        check_at_least(
            1,
            self,
            *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
            *("image_size", "patch_size", "num_channels"),
        )
        if self.image_size % self.patch_size:
            raise ConfigError(
                f"image_size: expected a multiple of patch_size ({self.patch_size}), "
                f"got {self.image_size}"
            )


class SigLIPViTBackbone(VisionBackbone):
    """Images to patch features. Weights are named as in FluxVLA (`vision.vision_model...`)."""

    @dataclass(frozen=True, kw_only=True)
    class Config(VisionBackbone.Config):
        vision_config: SigLIPVisionConfig = SigLIPVisionConfig()
        vision_backbone_id: str = "siglip_224"

        def build(self) -> SigLIPViTBackbone:
            return SigLIPViTBackbone(self)

        @property
        def image_size(self) -> tuple[int, int]:
            """(height, width) of its input."""
            return self.vision_config.image_size, self.vision_config.image_size

        @property
        def num_tokens(self) -> int:
            """Tokens per image."""
            return (self.vision_config.image_size // self.vision_config.patch_size) ** 2

        @property
        def out_dim(self) -> int:
            """Width of a token."""
            return self.vision_config.hidden_size

        @property
        def pixel_range(self) -> tuple[float, float]:
            """The range of its pretraining."""
            return -1.0, 1.0

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.vision = nn.ModuleDict({"vision_model": _VisionModel(config)})

    @property
    def layers(self) -> list[nn.Module]:
        """The transformer's layers."""
        encoder = cast(_VisionModel, self.vision["vision_model"]).encoder
        return list(encoder["layers"].children())

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, height, width) in [-1, 1] -> (B, num_tokens, out_dim)."""
        return self.vision["vision_model"](images)


class _VisionModel(nn.Module):
    def __init__(self, config: SigLIPViTBackbone.Config) -> None:
        super().__init__()
        vision = config.vision_config
        self.embeddings = _Embeddings(vision, config.num_tokens)
        layers = nn.ModuleList(_EncoderLayer(vision) for _ in range(vision.num_hidden_layers))
        self.encoder = nn.ModuleDict({"layers": layers})
        self.post_layernorm = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embeddings(images)
        for layer in self.encoder["layers"].children():
            x = layer(x)
        return self.post_layernorm(x)


class _Embeddings(nn.Module):
    def __init__(self, vision: SigLIPVisionConfig, num_tokens: int) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(
            vision.num_channels, vision.hidden_size, vision.patch_size, stride=vision.patch_size
        )
        self.position_embedding = nn.Embedding(num_tokens, vision.hidden_size)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embedding(images).flatten(2).transpose(1, 2)
        return patches + self.position_embedding.weight


class _EncoderLayer(nn.Module):
    def __init__(self, vision: SigLIPVisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)
        self.self_attn = SelfAttention(vision)
        self.layer_norm2 = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)
        self.mlp = nn.ModuleDict(
            {
                "fc1": nn.Linear(vision.hidden_size, vision.intermediate_size),
                "fc2": nn.Linear(vision.intermediate_size, vision.hidden_size),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        hidden = functional.gelu(self.mlp["fc1"](self.layer_norm2(x)), approximate="tanh")
        return x + self.mlp["fc2"](hidden)


class SelfAttention(Projections):
    """Full attention over the patches of an image."""

    def __init__(self, vision: SigLIPVisionConfig) -> None:
        super().__init__()
        width = vision.hidden_size
        self.num_heads = vision.num_attention_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) -> the same."""
        if self.packed is not None:
            projected = self.packed(x)
        else:
            projected = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in projected)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))
