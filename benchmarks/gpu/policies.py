"""pi0 and pi0.5 with random weights: as PyTorch runs them, and as a plan's constants.

Weights are drawn on the device by a seed, so that every stage gets the same network and nothing is
stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flux_core.config import bind, unbind
from flux_core.models import FlowPolicy, PrefixCache, sample_actions
from flux_core.models.layers.packing import pack_qkv
from flux_core.models.pi import sized_model
from flux_core.models.pi.sizes import Kind, Size
from flux_runtime.cuda.cubins import Cubins
from flux_runtime.cuda.pi import PiDescription, describe, make_plan
from flux_runtime.cuda.player import Program, Variant
from flux_runtime.export.options import ExportOptions
from flux_runtime.export.prepare import set_up_network

Array = NDArray[Any]
KINDS: tuple[Kind, ...] = ("pi0", "pi05")
SIZES: tuple[Size, ...] = ("small", "full")
NETWORKS = tuple((kind, size) for size in SIZES for kind in KINDS)
CAMERAS, HORIZON, ACTION_DIM = 3, 50, 32
TOKENS = 48
"""Of the prompt that is measured most."""
PROMPTS: Mapping[Kind, tuple[int, ...]] = {"pi0": (TOKENS,), "pi05": (TOKENS, 200)}
"""Prompt buckets that are measured."""
_SCALE, _OFFSET = 2 / 255, -1.0
"""From a byte to the pixel that the network expects."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A network in bfloat16, as `flux-export` prepares it.

    Attributes:
        model: as PyTorch runs it.
        weights: the tensors of its bundle.
        description: what its plans are made from.
    """

    model: FlowPolicy
    weights: Mapping[str, Tensor]
    description: PiDescription

    def read(self, name: str) -> Array:
        """Returns a tensor as a bundle stores it: uint16 for bfloat16."""
        value = self.weights[name].detach().cpu()
        if value.dtype == torch.bfloat16:
            return value.view(torch.int16).numpy().view(np.uint16)
        return value.numpy()


@torch.no_grad()
def random_network(kind: Kind, size: Size, device: str, seed: int = 0) -> FlowPolicy:
    """Returns a network in float32; the weights of its norms and its biases are random too."""
    tree = sized_model(kind, size, action_horizon=HORIZON, action_dim=ACTION_DIM)
    with torch.device("meta"):
        model = bind(FlowPolicy.Config, tree, "model").build().eval()
    if device == "meta":
        return model
    model = model.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
        else:
            is_scale = name.startswith("vision") and "norm" in name and name.endswith("weight")
            parameter.normal_(1.0 if is_scale else 0.0, 0.2, generator=generator)
    return model.requires_grad_(False)


def exported(kind: Kind, size: Size, device: str) -> Exported:
    """Returns the same network with the same weights in bfloat16."""
    model = random_network(kind, size, device)
    pack_qkv(model)
    with torch.device(device):
        prefix_tokens = CAMERAS * model.config.vision_backbone.num_tokens + max(PROMPTS[kind])
        weights = set_up_network(model, ExportOptions(precision="bf16"), prefix_tokens, {})
    pixels = ((_SCALE,) * 3,) * CAMERAS, ((_OFFSET,) * 3,) * CAMERAS
    description = describe(
        unbind(model.config),
        {name: tuple(value.shape) for name, value in weights.items()},
        horizon=HORIZON,
        live_dims=ACTION_DIM,
        image_scale=pixels[0],
        image_offset=pixels[1],
    )
    return Exported(model=model, weights=weights, description=description)


def describe_network(kind: Kind, size: Size) -> PiDescription:
    """Describes a network without its weights."""
    return exported(kind, size, "meta").description


def observation(model: FlowPolicy, kind: Kind, cameras: int, tokens: int) -> dict[str, Array]:
    """Draws the inputs of an inference: so many cameras are present, and all `tokens` are real."""
    random = np.random.default_rng(1)
    height, width = model.config.image_size
    most = max(PROMPTS[kind])
    inputs: dict[str, Array] = {
        "images": random.integers(0, 256, (1, CAMERAS, height, width, 3), np.uint8),
        "image_masks": np.arange(CAMERAS)[None] < cameras,
        "lang_tokens": random.integers(0, model.config.vocab_size, (1, most)),
        "lang_masks": np.arange(most)[None] < tokens,
    }
    inputs["lang_tokens"][:, tokens:] = 0
    if model.config.reads_state:
        inputs["state"] = random.normal(size=(1, ACTION_DIM)).astype(np.float32)
    return inputs


def draw_noise() -> NDArray[np.float32]:
    """Draws (H, A) noise."""
    return np.random.default_rng(2).normal(size=(HORIZON, ACTION_DIM)).astype(np.float32)


def plan_network(
    network: Exported, cubins: Cubins, kind: Kind, wanted: Iterable[Variant]
) -> Program:
    """Plans the variants (cameras, tokens) that are measured."""
    size = network.description.tower.image_size
    inputs = {
        "images": ("uint8", (1, CAMERAS, size, size, 3)),
        "image_masks": ("bool", (1, CAMERAS)),
        "lang_tokens": ("int64", (1, max(PROMPTS[kind]))),
        "lang_masks": ("bool", (1, max(PROMPTS[kind]))),
    }
    if network.description.state_dim:
        inputs["state"] = ("float32", (1, ACTION_DIM))
    arch = cubins.architecture.name
    return Program(
        plans={one: make_plan(network.description, *one, arch=arch) for one in wanted},
        arch=arch,
        kernels=cubins,
        read=network.read,
        inputs=inputs,
        action_shape=(HORIZON, ACTION_DIM),
        vocabulary_size=network.description.vocabulary,
    )


class TorchPolicy:
    """A network in PyTorch, from bytes and noise to actions.

    Args:
        model: the network.
        dtype: of its streams.
        inputs: of the inference; only as many cameras and tokens as are real are computed.
        noise: (H, A).
    """

    def __init__(
        self, model: FlowPolicy, dtype: torch.dtype, inputs: Mapping[str, Array], noise: Array
    ) -> None:
        self.model, self.dtype = model, dtype
        self.device = next(iter(model.parameters())).device
        cameras, tokens = (int(inputs[name].sum()) for name in ("image_masks", "lang_masks"))
        self._on_host = {
            "images": torch.from_numpy(inputs["images"][:, :cameras].copy()),
            "tokens": torch.from_numpy(inputs["lang_tokens"][:, :tokens].copy()),
            "noise": torch.from_numpy(noise[None].copy()),
        }
        if "state" in inputs:
            self._on_host["state"] = torch.from_numpy(inputs["state"])
        if self.device.type == "cuda":
            self._on_host = {name: part.pin_memory() for name, part in self._on_host.items()}
        self.given = {name: part.to(self.device) for name, part in self._on_host.items()}
        self.image_masks = torch.ones(1, cameras, dtype=torch.bool, device=self.device)
        self.token_masks = torch.ones(1, tokens, dtype=torch.bool, device=self.device)

    def copy_in(self) -> None:
        """Copies the inputs to the device again."""
        for name, part in self._on_host.items():
            self.given[name].copy_(part, non_blocking=True)

    @torch.no_grad()
    def image_tokens(self) -> Tensor:
        """The prefix's tokens of the images, (1, tokens, width)."""
        images = self.pixels().flatten(0, 1)
        return self.model.projector(self.model.vision_backbone(images)).flatten(0, 1)[None]

    def prefix(self) -> PrefixCache:
        """The keys and values of the prefix."""
        given = self.given["tokens"]
        return self.model.prefix(self.pixels(), self.image_masks, given, self.token_masks)

    @torch.no_grad()
    def actions(self) -> Tensor:
        """The actions, (H, A) float32, on the device."""
        return sample_actions(
            self.model, self.given.get("state"), self.prefix(), self.given["noise"]
        )[0]

    def pixels(self) -> Tensor:
        """The images as the network expects them, (1, cameras, 3, height, width)."""
        images = self.given["images"].permute(0, 1, 4, 2, 3).float() * _SCALE + _OFFSET
        return images.to(self.dtype)


def cosine(got: Array, wanted: Array) -> float:
    """Of the angle between two arrays, as vectors."""
    a, b = (np.asarray(one, np.float64).ravel() for one in (got, wanted))
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def relative_error(got: Array, wanted: Array) -> float:
    """The norm of the difference over the norm of what is wanted."""
    a, b = (np.asarray(one, np.float64).ravel() for one in (got, wanted))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def on_host(values: Tensor) -> Array:
    """A tensor as float32 in host memory."""
    return values.detach().float().cpu().numpy()
