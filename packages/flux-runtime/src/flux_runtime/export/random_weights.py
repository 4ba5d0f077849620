"""Makes a policy with random weights, to time a network without a checkpoint."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor

from flux_core.config import NETWORKS, bind, component, unbind
from flux_core.deployment import AlohaInferenceRunner, InferenceRunner, ObservationTransforms
from flux_core.models import FlowPolicy
from flux_core.models.flow import Size
from flux_core.models.layers import Float32Norm
from flux_core.norm_stats import compute_stats
from flux_core.robots import robot_spec
from flux_core.transforms import DenormalizeActions

from .source.policy import TrainedPolicy

TASK = "fold the towel"
CAMERAS = 3
_BLOCK = 1 << 22


def random_policy(kind: str, size: Size) -> TrainedPolicy:
    """Returns a policy for `aloha` with three cameras, and horizon and prompt as published."""
    network = cast("type[FlowPolicy]", component(NETWORKS[kind]))
    config = bind(FlowPolicy.Config, network.Config.sized(size), "model")
    with torch.device("meta"):
        model = config.build().eval()
    fill_with_noise(model.to_empty(device="cpu"))
    inference = _inference(config)
    random, spec = np.random.default_rng(0), robot_spec("aloha")
    stats = {
        name: compute_stats(random.uniform(-1, 1, (100, width)))
        for name, width in (("proprio", spec.state_dim), ("action", spec.action_dim))
    }
    return TrainedPolicy(
        model=model,
        inference=inference,
        config={"model": unbind(config), "inference": unbind(inference)},
        norm_stats={"aloha": stats},
        provenance={"weights": "random"},
        training_log=None,
    )


@torch.no_grad()
def fill_with_noise(model: torch.nn.Module) -> None:
    """Sets initial weights by repeating one block of noise, which is faster than drawing all.

    Norms scale by 1 and biases are 0.
    """
    block = torch.randn(_BLOCK, generator=torch.Generator().manual_seed(0))
    for parameter in model.parameters():
        std = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.0
        for piece in parameter.view(-1).split(_BLOCK):
            torch.mul(block[: piece.numel()], std, out=piece)
    for module in model.modules():
        weight = getattr(module, "weight", None)
        # Ours scale by 1 + weight.
        if isinstance(weight, Tensor) and weight.ndim == 1 and not isinstance(module, Float32Norm):
            weight.fill_(1.0)


def _inference(config: FlowPolicy.Config) -> InferenceRunner:
    return AlohaInferenceRunner(
        task_descriptions={"0": TASK},
        dataset=ObservationTransforms(
            img_keys=robot_spec("aloha").cameras[:CAMERAS],
            transforms=tuple(config.example_transforms()),
        ),
        denormalize_action=DenormalizeActions(norm_type="mean_std"),
    )
