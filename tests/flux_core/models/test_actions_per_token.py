"""Several action steps per token give the same network over wider, fewer steps."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from flux_core.config import bind
from flux_core.errors import ConfigError
from flux_core.models.pi import PI05FlowMatching
from flux_train import recipes

HORIZON, GROUP, DIM = 8, 4, 14


def small_config() -> PI05FlowMatching.Config:
    tree = recipes.small_pi05_model(action_horizon=HORIZON, width=32)
    return bind(PI05FlowMatching.Config, tree, "model")


def test_a_token_of_four_steps_is_a_step_of_four_times_the_dimensions() -> None:
    grouped = small_config()
    assert (grouped.actions_per_token, grouped.action_dim) == (GROUP, DIM)
    wide = dataclasses.replace(
        grouped, actions_per_token=1, n_action_steps=HORIZON // GROUP, max_action_dim=GROUP * DIM
    )
    torch.manual_seed(0)
    model, peer = grouped.build(), wide.build()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    peer.load_state_dict(model.state_dict())
    images = torch.randn(2, 1, 3, *grouped.vision_backbone.image_size)
    words = torch.randint(4, 200, (2, 6))
    masks = torch.ones(2, 1, dtype=torch.bool), torch.ones(2, 6, dtype=torch.bool)
    cache = model.prefix(images, masks[0], words, masks[1])
    x_t = torch.randn(2, HORIZON, DIM)
    of_all, of_tokens = torch.rand(2, 1), torch.rand(2, HORIZON // GROUP)
    of_steps = of_tokens.repeat_interleave(GROUP, dim=1)
    for t_of_steps, t in ((of_all, of_all), (of_steps, of_tokens)):
        found = model.denoise(None, x_t, t_of_steps, cache)
        expected = peer.denoise(None, x_t.reshape(2, HORIZON // GROUP, -1), t, cache)
        assert found.shape == x_t.shape and found.abs().max() > 0.1
        torch.testing.assert_close(found, expected.reshape(x_t.shape))


@pytest.mark.parametrize("group", [0, 3])
def test_a_horizon_that_the_tokens_do_not_divide_is_refused(group: int) -> None:
    with pytest.raises(ConfigError, match="actions_per_token: expected a divisor"):
        dataclasses.replace(small_config(), actions_per_token=group)
