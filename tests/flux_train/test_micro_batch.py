"""Preparing batches for the network: padding that no sample of the batch needs is dropped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flux_core.models import draw_flow
from flux_train.config.tree import read_train_config
from flux_train.micro_batch import PROMPT_MULTIPLE, to_device, trim_prompts
from flux_train.policy_loss import PolicyLoss

ROOT = Path(__file__).resolve().parents[2]
SMALL = ROOT / "configs" / "pi05" / "pi05_small_aloha_sim.py"


@given(lengths=st.lists(st.integers(0, 50), min_size=1, max_size=4))
def test_no_token_of_any_row_is_lost(lengths: list[int]) -> None:
    masks = np.arange(50) < np.array(lengths)[:, None]
    tokens = np.where(masks, np.arange(1, 51), 0)
    trimmed = trim_prompts({"lang_tokens": tokens, "lang_masks": masks, "states": "kept"})
    width = trimmed["lang_masks"].shape[1]
    assert trimmed["lang_tokens"].shape == trimmed["lang_masks"].shape
    assert trimmed["lang_masks"].sum() == masks.sum() and trimmed["states"] == "kept"
    assert trimmed["lang_tokens"].sum() == tokens.sum()
    assert max(lengths) <= width <= max(max(lengths) + PROMPT_MULTIPLE, PROMPT_MULTIPLE)
    assert width == 50 or width % PROMPT_MULTIPLE == 0


def test_loss_and_gradients_stay_the_same(tiny_options: list[str]) -> None:
    torch.manual_seed(0)
    config, _ = read_train_config(SMALL, tiny_options)
    model = config.model.build()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    module = PolicyLoss(model, num_groups=1)
    backbone, horizon = config.model.vision_backbone, config.model.n_action_steps
    shape = (2, horizon, config.model.action_dim)
    masks = np.arange(64) < np.array([[9], [20]])
    batch = {
        "images": np.random.default_rng(0).random((2, 1, 3, *backbone.image_size), np.float32),
        "image_masks": np.array([[True], [False]]),
        "lang_tokens": np.where(masks, 5, 0),
        "lang_masks": masks,
        "states": np.ones((2, config.model.action_dim), np.float32),
        "actions": np.ones(shape, np.float32),
        "action_masks": np.ones(shape[:2], bool),
        "group": np.zeros(2, np.int64),
    }
    draws = draw_flow(config.model, 2, config.model.action_dim)
    gradients = []
    for candidate in (batch, trim_prompts(batch)):
        model.zero_grad()
        found = module(to_device(candidate, torch.device("cpu")), draws, torch.tensor(1.0))
        found.loss.backward()
        grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        gradients.append((found.loss.item(), grads))
    assert gradients[1][0] == pytest.approx(gradients[0][0], rel=1e-6)
    for ours, whole in zip(gradients[1][1], gradients[0][1], strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-4, atol=1e-5)
