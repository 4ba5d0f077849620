"""The golden: inputs for which every engine must reproduce PyTorch's actions, and these actions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from flux_core.models import PrefixCache, sample_actions
from flux_core.policy_io import PolicyIO
from flux_core.types import Observation

from .graphs import DenoiseGraph, PrefixGraph, cache_names
from .source.policy import TrainedPolicy

GOLDEN_SEED = 20261122
PREFIX_INPUTS = ("images", "image_masks", "lang_tokens", "lang_masks")
Arrays = dict[str, NDArray[np.generic]]


def golden_inputs(
    policy: TrainedPolicy, io: PolicyIO, observation: Observation | None = None
) -> Arrays:
    """Encodes `observation` and draws noise; the default is noise images and the mean state.

    The prompt is that of the robot's first task.
    """
    generator = np.random.default_rng(GOLDEN_SEED)
    prompt = next(iter(policy.inference.task_descriptions.values()))
    if observation is None:
        height, width = policy.model.config.image_size
        images = {
            name: generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
            for name in policy.inference.dataset.img_keys
        }
        state = io.mean_state
        observation = Observation(images=images, state=state, prompt=prompt, timestamp_s=0.0)
    return encoded(policy, io, replace(observation, prompt=prompt), generator)


def encoded(
    policy: TrainedPolicy, io: PolicyIO, observation: Observation, generator: np.random.Generator
) -> Arrays:
    """Returns all inputs of the graphs: the encoded observation, and noise from `generator`."""
    config = policy.model.config
    noise = generator.standard_normal((1, config.n_action_steps, config.action_dim))
    return {**io.encode(observation), "noise": noise.astype(np.float32)}


@torch.no_grad()
def pytorch_outputs(prefix: PrefixGraph, denoise: DenoiseGraph, inputs: Arrays) -> Arrays:
    """Returns PyTorch's actions, x after the first step, and the outputs of the prefix.

    All are float32 or bool, whatever the network's precision.
    """
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in inputs.items()}
    outputs = prefix(*(tensors[name] for name in PREFIX_INPUTS))
    cache = PrefixCache(outputs[1::2], outputs[2::2], outputs[0])
    noise, state = tensors["noise"], tensors.get("state")
    actions = sample_actions(
        denoise.model,
        state,
        cache,
        noise,
        denoise.num_inference_steps,
        action_dims=denoise.action_dims,
        unsmoothed=denoise.unsmoothed,
    )
    first, _ = denoise(state, noise, torch.ones(noise.shape[:2]), *outputs)
    stages = dict(zip(cache_names(len(cache.keys)), outputs, strict=True))
    return {
        "actions": actions.numpy(),
        "x_next_first": first.numpy(),
        **{
            name: (value if value.dtype == torch.bool else value.float()).numpy()
            for name, value in stages.items()
        },
    }
