"""A policy of random weights, to measure a size of network without a checkpoint."""

from __future__ import annotations

import numpy as np
import torch

from flux_core.config import bind, unbind
from flux_core.deployment import AlohaInferenceRunner, InferenceRunner
from flux_core.models import PI0FlowMatching
from flux_core.models.pi import Kind, Size, sized_model
from flux_core.norm_stats import compute_stats
from flux_core.robots import robot_spec
from flux_core.tokenizers import ByteTokenizer

from .policy import TrainedPolicy

PROMPT_TOKENS: dict[Kind, int] = {"pi0": 48, "pi05": 200}
TASK = "fold the towel"
CAMERAS = 3
_BLOCK = 1 << 22


def random_policy(kind: Kind, size: Size) -> TrainedPolicy:
    """Three cameras of the robot `aloha`, chunks of 50 actions, prompts of openpi's lengths."""
    tree = sized_model(kind, size)
    config = bind(PI0FlowMatching.Config, tree, "model")
    with torch.device("meta"):
        model = config.build().eval()
    fill_with_noise(model.to_empty(device="cpu"))
    height, _ = config.vision_backbone.image_size
    inference = bind(InferenceRunner, _inference(kind, height, config.action_dim), "inference")
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
    """Weights as training begins with, one block of numbers over and over: drawing takes longer."""
    block = torch.randn(_BLOCK, generator=torch.Generator().manual_seed(0))
    for parameter in model.parameters():
        std = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.0
        for piece in parameter.view(-1).split(_BLOCK):
            torch.mul(block[: piece.numel()], std, out=piece)


def _inference(kind: Kind, image_size: int, action_dim: int) -> dict[str, object]:
    prompter = "TaskPrompter" if kind == "pi0" else "PreparePromptWithState"
    tokenizer = unbind(ByteTokenizer())
    return {
        "type": AlohaInferenceRunner.__name__,
        "task_descriptions": {"0": TASK},
        "dataset": {
            "type": "ObservationTransforms",
            "img_keys": list(robot_spec("aloha").cameras[:CAMERAS]),
            "transforms": [
                {"type": "NormalizeStatesAndActions", "norm_type": "mean_std"},
                {"type": prompter},
                {"type": "ProcessPrompts", "tokenizer": tokenizer, "max_len": PROMPT_TOKENS[kind]},
                {"type": "PadKeyToDim", "keys": ["states"], "dim": action_dim},
                {"type": "ResizeImagesWithPad", "height": image_size, "width": image_size},
                {"type": "SimpleNormalizeImages"},
            ],
        },
        "denormalize_action": {"type": "DenormalizeActions", "norm_type": "mean_std"},
    }
