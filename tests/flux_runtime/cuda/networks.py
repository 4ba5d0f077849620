"""Small pi0 and pi0.5 with random weights: as PyTorch runs them, and as their bundle's tensors."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy, deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flux_core.config import bind, unbind
from flux_core.models import FlowPolicy, PrefixCache, sample_actions
from flux_core.models.layers.packing import PACKED
from flux_core.models.pi.sizes import Kind, sized_model
from flux_core.rtc import RTCConfig
from flux_runtime.cuda.pi import PiDescription, describe
from flux_runtime.export.options import ExportOptions
from flux_runtime.export.precision.network import compute_dtype
from flux_runtime.export.prepare import set_up_network

Array = NDArray[Any]
HORIZON, ACTION_DIM, STATE_DIM = 10, 20, 14
"""No size of the actions is a multiple of a tile's."""
SCALE = ((2 / 255,) * 3, (0.007, 0.008, 0.009), (2 / 255,) * 3)
OFFSET = ((-1.0,) * 3, (-0.9, -1.0, -1.1), (-1.0,) * 3)
"""The second camera is normalised in its own way."""


def small_tree(kind: Kind, steps: int) -> dict[str, Any]:
    """The smallest config that has everything: several layers, odd sizes, a padded head."""
    tree = sized_model(kind, "small", action_horizon=HORIZON, action_dim=ACTION_DIM)
    for part, width, mlp in (("llm_backbone", 96, 144), ("llm_expert", 80, 112)):
        tree[part] |= dict(hidden_size=width, intermediate_size=mlp, num_hidden_layers=2)
        tree[part] |= dict(num_attention_heads=4, head_dim=32)
    tree["llm_backbone"]["vocab_size"] = 64
    tree["vision_backbone"]["vision_config"] = dict(
        hidden_size=72,
        intermediate_size=112,
        num_hidden_layers=2,
        num_attention_heads=3,
        image_size=42,
    )
    tree["projector"] |= dict(in_dim=72, out_dim=96)
    tree["proj_width"] = 80
    for name in ("action_in_proj", "state_proj"):
        if name in tree:
            tree[name]["out_dim"] = 80
    if "state_proj" in tree:
        tree["state_proj"]["in_dim"] = STATE_DIM
    tree["action_out_proj"]["in_dim"] = 80
    if "adarms_cond_dim" in tree["llm_expert"]:
        tree["llm_expert"]["adarms_cond_dim"] = 80
    tree["num_inference_steps"] = steps
    return tree


def least_tree(kind: Kind) -> dict[str, Any]:
    """The least of everything, in odd sizes: one action, one Euler step, pictures of one patch."""
    tree = small_tree(kind, 1) | dict(n_action_steps=1)
    for part, width, mlp in (("llm_backbone", 33, 50), ("llm_expert", 18, 5)):
        tree[part] |= dict(hidden_size=width, intermediate_size=mlp, num_hidden_layers=1)
        tree[part] |= dict(num_attention_heads=1, rms_norm_eps=1e-3)
    tree["vision_backbone"]["vision_config"] |= dict(hidden_size=9, intermediate_size=7)
    tree["vision_backbone"]["vision_config"] |= dict(num_hidden_layers=1, layer_norm_eps=1e-3)
    tree["vision_backbone"]["vision_config"] |= dict(image_size=5, patch_size=5)
    tree["projector"] |= dict(in_dim=9, out_dim=33)
    tree["proj_width"] = tree["action_in_proj"]["out_dim"] = tree["action_out_proj"]["in_dim"] = 18
    if "state_proj" in tree:
        tree["state_proj"]["out_dim"] = 18
    if "adarms_cond_dim" in tree["llm_expert"]:
        tree["llm_expert"]["adarms_cond_dim"] = 18
    return tree


@torch.no_grad()
def random_network(tree: Mapping[str, Any], seed: int = 0) -> FlowPolicy:
    """Builds a network with random weights: those of norms and all biases too."""
    config = bind(FlowPolicy.Config, dict(tree), "model")
    model = config.build().eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
        else:
            is_scale = "layer_norm" in name or "layernorm" in name or "norm.weight" in name
            middle = 1.0 if name.startswith("vision") and is_scale and "weight" in name else 0.0
            parameter.normal_(middle, 0.2, generator=generator)
    return model


@dataclass(frozen=True)
class Observation:
    """What an inference reads; `cameras` are the present ones."""

    images: Array
    cameras: tuple[int, ...]
    tokens: Array
    num_tokens: int
    state: Array
    noise: Array
    known: Array

    @property
    def plan_inputs(self) -> dict[str, Array]:
        """By the names of a plan's inputs. What must not be read is NaN."""
        known = np.full_like(self.noise, np.nan)
        known[: len(self.known)] = self.known
        noise = self.noise.copy()
        noise[: len(self.known)] = np.nan
        return {
            "images": self.images[list(self.cameras)],
            "cameras": np.array(self.cameras, np.int32),
            "tokens": self.tokens,
            "num_tokens": np.array([self.num_tokens]),
            "state": self.state,
            "noise": noise,
            "known": known,
            "num_known": np.array([len(self.known)]),
        }


def observation(
    config: FlowPolicy.Config,
    *,
    seed: int = 1,
    cameras: tuple[int, ...] = (0, 1, 2),
    bucket: int = 12,
    num_tokens: int = 7,
    num_known: int = 0,
    live_dims: int = ACTION_DIM,
    state_dim: int = STATE_DIM,
) -> Observation:
    """Draws an observation."""
    random = np.random.default_rng(seed)
    height, width = config.image_size
    tokens = random.integers(0, config.vocab_size, bucket)
    tokens[num_tokens:] = 0
    shape = (config.n_action_steps, config.action_dim)
    known = random.normal(size=(num_known, config.action_dim))
    known[:, live_dims:] = 0.0
    return Observation(
        images=random.integers(0, 256, (3, height, width, 3), dtype=np.uint8),
        cameras=cameras,
        tokens=tokens.astype(np.int32),
        num_tokens=num_tokens,
        state=random.normal(size=state_dim).astype(np.float32),
        noise=random.normal(size=shape).astype(np.float32),
        known=known.astype(np.float32),
    )


class Exported:
    """A network as `flux-export` prepares it, in one precision."""

    def __init__(self, tree: Mapping[str, Any], precision: Any, live_dims: int = ACTION_DIM):
        self.original, self.live_dims = random_network(tree), live_dims
        self.model = deepcopy(self.original)
        self.dtype = compute_dtype(precision)
        self.precision = precision
        options = ExportOptions(precision=precision)
        prefix_tokens = 3 * self._num_patches + 48
        self.weights = set_up_network(self.model, options, prefix_tokens, {})

    @property
    def _num_patches(self) -> int:
        vision: Any = self.model.vision_backbone
        return len(vision.vision["vision_model"].embeddings.position_embedding.weight)

    @property
    def description(self) -> PiDescription:
        """Its description, from names, shapes and the config."""
        return describe(
            unbind(self.model.config),
            {name: tuple(value.shape) for name, value in self.weights.items()},
            horizon=self.model.config.n_action_steps,
            live_dims=self.live_dims,
            image_scale=SCALE,
            image_offset=OFFSET,
        )

    def read(self, name: str) -> Array:
        """A tensor as a bundle stores it: uint16 for bfloat16."""
        value = self.weights[name]
        if value.dtype == torch.bfloat16:
            return value.view(torch.int16).numpy().view(np.uint16)
        return value.numpy()

    def packed(self) -> Exported:
        """The same with queries, keys and values as one tensor."""
        weights = dict(self.weights)
        for name in self.weights:
            if ".q_proj." in name:
                parts = [weights.pop(name.replace("q_proj", part)) for part in PACKED]
                weights[name.replace("q_proj", "packed.qkv_proj")] = torch.cat(parts)
        other = copy(self)
        other.weights = weights
        return other

    def actions(self, observed: Observation) -> Array:
        """What PyTorch computes in this precision: masked cameras and prompts of full length."""
        return _sampled(self.model, self.dtype, observed, self.live_dims)

    def reference(self, observed: Observation) -> Array:
        """What PyTorch computes with the original weights in float32."""
        return _sampled(self.original, torch.float32, observed, self.live_dims)


@torch.no_grad()
def _sampled(model: FlowPolicy, dtype: torch.dtype, observed: Observation, live_dims: int) -> Array:
    rtc = None
    if len(observed.known):
        rtc = RTCConfig(prefix_len=len(observed.known))
    return sample_actions(
        model,
        torch.from_numpy(observed.state)[None] if model.config.reads_state else None,
        encoded(model, dtype, observed),
        torch.from_numpy(observed.noise)[None],
        rtc=rtc,
        previous=torch.from_numpy(observed.known)[None] if rtc else None,
        action_dims=live_dims,
    )[0].numpy()


@torch.no_grad()
def encoded(model: FlowPolicy, dtype: torch.dtype, observed: Observation) -> PrefixCache:
    """The prefix of an observation."""
    scale, offset = (torch.tensor(t)[:, None, None] for t in (SCALE, OFFSET))
    images = torch.from_numpy(observed.images).float() * scale + offset
    present = torch.tensor([[number in observed.cameras for number in range(3)]])
    mask = torch.arange(len(observed.tokens))[None] < observed.num_tokens
    tokens = torch.from_numpy(observed.tokens).long()[None]
    return model.prefix(images.permute(0, 3, 1, 2)[None].to(dtype), present, tokens, mask)
