"""Tiny image encoders of `transformers`, for tests: their configs, and the models themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from flux_train import recipes

VIT = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, patch_size=8, image_size=32)
CONVOLUTIONS = dict(hidden_sizes=[8, 24], depths=[1, 2], layer_scale_init_value=0.5)
CONFIGS: dict[str, dict[str, Any]] = {
    "siglip_vision_model": {**VIT, "intermediate_size": 40},
    "dinov2": {**VIT, "mlp_ratio": 2},
    "dinov2_with_registers": {**VIT, "mlp_ratio": 2, "num_register_tokens": 3},
    "dinov3_vit": {**VIT, "intermediate_size": 40, "num_register_tokens": 2},
    "convnext": {**CONVOLUTIONS, "patch_size": 4, "num_stages": 2},
    "dinov3_convnext": CONVOLUTIONS,
}
"""`model_type` -> settings with a stride of 8 pixels and tokens of 24 dimensions."""
CLASSES = {
    "siglip_vision_model": "SiglipVision",
    "dinov2": "Dinov2",
    "dinov2_with_registers": "Dinov2WithRegisters",
    "dinov3_vit": "DINOv3ViT",
    "convnext": "ConvNext",
    "dinov3_convnext": "DINOv3ConvNext",
}
STRIDE, WIDTH = 8, 24
STATISTICS = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])


def section(kind: str, height: int = 32, width: int = 32, **settings: Any) -> dict[str, Any]:
    """The config section of a backbone with random weights."""
    return {
        "type": "TransformersVisionBackbone",
        "config": {"model_type": kind, **CONFIGS[kind]},
        "image_height": height,
        "image_width": width,
        **STATISTICS,
        **settings,
    }


def network_tree(network: str, vision: dict[str, Any]) -> dict[str, Any]:
    """The config of a tiny pi0, pi0.5 or GR00T with this backbone."""
    if network == "gr00t":
        tree: dict[str, Any] = recipes.small_gr00t_model(action_horizon=8, width=32, depth=2)
        return tree | dict(vision_backbone=vision, projector=dict(tree["projector"], in_dim=WIDTH))
    tree = recipes.small_pi05_model(action_horizon=8, width=32, depth=1, vision_backbone=vision)
    if network == "pi05":
        return tree
    plain = {k: v for k, v in tree["llm_expert"].items() if "adarms" not in k}
    state = dict(type="LinearProjector", in_dim=14, out_dim=32)
    return tree | dict(type="PI0FlowMatching", llm_expert=plain, state_proj=state)


def reference(kind: str, **settings: Any) -> Any:
    """The model as `transformers` makes it, with random weights that all matter."""
    import transformers

    config = getattr(transformers, f"{CLASSES[kind]}Config")(**{**CONFIGS[kind], **settings})
    torch.manual_seed(0)
    model = getattr(transformers, f"{CLASSES[kind]}Model")(config)
    randomise(model)
    return model.eval()


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Draws all weights anew, norms and scales near one."""
    for parameter in model.parameters():
        parameter.copy_(0.3 * torch.randn(parameter.shape) + (parameter.ndim == 1))


@torch.no_grad()
def patches(kind: str, model: Any, pixels: Tensor, *, stretched: bool = False) -> Tensor:
    """The tokens of the patches alone, in rows, (B, patches, WIDTH)."""
    if kind == "siglip_vision_model":
        return model(pixels, interpolate_pos_encoding=stretched).last_hidden_state
    x = model(pixels).last_hidden_state
    if kind == "convnext":
        return x.permute(0, 2, 3, 1).flatten(1, 2)
    count = pixels.shape[-2] * pixels.shape[-1] // STRIDE**2
    return x[:, -count:]


def preprocessor(name: str) -> Any:
    """The class of an image processor that needs no torchvision."""
    import transformers

    return getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)


def standardised(images: Tensor) -> Tensor:
    """(B, 3, h, w) uint8 -> what the model's own preprocessing makes of it."""
    means, deviations = (torch.tensor(each)[:, None, None] for each in STATISTICS.values())
    return (images / 255 - means) / deviations


def in_our_range(images: Tensor) -> Tensor:
    """(B, 3, h, w) uint8 -> [-1, 1], as our networks take images."""
    return images / 255 * 2 - 1


def some_images(count: int, height: int = 32, width: int = 32) -> Tensor:
    """(count, 3, height, width) uint8 noise."""
    drawn = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, height, width), generator=drawn, dtype=torch.uint8)


def weights_of(model: Any) -> dict[str, Tensor]:
    """The encoder's weights without a wrapper's name before them."""
    return {k.removeprefix("vision_model."): v for k, v in model.state_dict().items()}
