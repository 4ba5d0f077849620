"""Smoothed chunks: what the smoother does, and where it acts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flux_core.config import bind
from flux_core.errors import ConfigError
from flux_core.models import PrefixCache, sample_actions
from flux_core.models.flow.smoothing import smoothed_velocity, smoother, smoothing_matrix
from flux_core.models.pi import PI0FlowMatching
from flux_core.rtc import RTCConfig
from flux_runtime.export.graphs import DenoiseGraph
from flux_train import recipes

HORIZON, DIM, WIDTH = 16, 14, 1.5


def policy(action_smoothing: float) -> PI0FlowMatching:
    tree = recipes.small_pi05_model(action_horizon=HORIZON, width=32)
    torch.manual_seed(0)
    config = bind(PI0FlowMatching.Config, tree | {"action_smoothing": action_smoothing}, "model")
    model = config.build()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return model.eval()


@torch.no_grad()
def encoded(model: PI0FlowMatching) -> PrefixCache:
    generator = torch.Generator().manual_seed(1)
    size = model.config.vision_backbone.image_size
    images = torch.randn(1, 1, 3, *size, generator=generator)
    tokens = torch.randint(4, 200, (1, 6), generator=generator)
    masks = torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 6, dtype=torch.bool)
    return model.prefix(images, masks[0], tokens, masks[1])


def noise() -> torch.Tensor:
    return torch.randn(1, HORIZON, DIM, generator=torch.Generator().manual_seed(2))


def roughness(actions: torch.Tensor) -> float:
    return float(actions.diff(n=3, dim=1).square().mean().sqrt())


def test_each_smoothed_step_is_on_a_line_that_numpy_fits_with_the_same_weights() -> None:
    values, steps = np.random.default_rng(0).normal(size=HORIZON), np.arange(HORIZON)
    ours = smoothing_matrix(HORIZON, WIDTH).astype(np.float64) @ values
    for step in steps:
        # numpy's weights multiply the residuals, not their squares.
        weights = np.exp(-0.25 * ((steps - step) / WIDTH) ** 2)
        line = np.polynomial.Polynomial.fit(steps, values, 1, w=weights)
        assert ours[step] == pytest.approx(line(step), abs=1e-6)


def test_a_straight_line_stays_as_it_is_at_both_ends_too() -> None:
    line = 0.3 - 0.02 * np.arange(HORIZON)
    np.testing.assert_allclose(smoothing_matrix(HORIZON, WIDTH) @ line, line, atol=1e-6)


def test_sampled_chunks_are_the_smoothed_actions_of_the_last_step() -> None:
    """Smoothed once more, they differ from themselves far less than a rough chunk does."""
    rough, smooth = policy(0.0), policy(WIDTH)
    chunks = [sample_actions(m, None, encoded(m), noise()) for m in (rough, smooth)]
    assert roughness(chunks[1]) < 0.2 * roughness(chunks[0])
    weights = smoother(HORIZON, WIDTH)
    assert weights is not None
    x_t, t = noise(), torch.full((1, HORIZON), 0.1)
    velocity = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(3))
    reached = x_t - 0.1 * smoothed_velocity(velocity, x_t, t, weights)
    torch.testing.assert_close(reached, weights @ (x_t - 0.1 * velocity), atol=1e-6, rtol=1e-5)


def test_a_known_prefix_stays_as_it_is_and_the_steps_behind_it_join_it_smoothly() -> None:
    model, previous = policy(WIDTH), torch.zeros(1, HORIZON, DIM)
    previous[:] = torch.linspace(0.0, 1.0, HORIZON)[None, :, None]
    rtc = RTCConfig(prefix_len=8)
    chunk = sample_actions(model, None, encoded(model), noise(), rtc=rtc, previous=previous)
    assert torch.equal(chunk[:, :8], previous[:, :8])
    assert torch.isfinite(chunk).all()
    plain = policy(0.0)
    other = sample_actions(plain, None, encoded(plain), noise(), rtc=rtc, previous=previous)
    steps = [float(each[:, 6:10].diff(n=2, dim=1).abs().max()) for each in (chunk, other)]
    assert steps[0] < steps[1]


def test_actions_that_are_0_or_1_are_not_smoothed() -> None:
    binary = torch.zeros(DIM, dtype=torch.bool)
    binary[[6, 13]] = True
    weights, velocity, x_t = smoother(HORIZON, WIDTH), noise(), 2.0 * noise()
    t = torch.full((1, HORIZON), 0.5)
    found = smoothed_velocity(velocity, x_t, t, weights, binary)
    assert torch.equal(found[..., binary], velocity[..., binary])
    whole = smoothed_velocity(velocity, x_t, t, weights)
    assert torch.equal(found[..., ~binary], whole[..., ~binary])
    model = policy(WIDTH)
    kept = sample_actions(model, None, encoded(model), noise(), unsmoothed=binary)
    graph = DenoiseGraph(model, 4, DIM, tuple(binary.tolist()))
    cache = encoded(model)
    flat = [x for pair in zip(cache.keys, cache.values, strict=True) for x in pair]
    x, t = noise(), torch.ones(1, HORIZON)
    for _ in range(4):
        x, t = graph(None, x, t, cache.pad_masks, *flat)
    torch.testing.assert_close(
        sample_actions(model, None, cache, noise(), 4, unsmoothed=binary), x, atol=1e-5, rtol=1e-5
    )
    rough = sample_actions(policy(0.0), None, encoded(model), noise())
    assert roughness(kept[..., ~binary]) < 0.4 * roughness(kept[..., binary])
    assert roughness(kept[..., binary]) > 0.5 * roughness(rough[..., binary])


def test_without_a_width_nothing_changes() -> None:
    velocity = noise()
    assert smoother(HORIZON, 0.0) is None
    assert smoothed_velocity(velocity, noise(), torch.ones(1, HORIZON), None) is velocity


@pytest.mark.parametrize("width", [-1.0, 17.0])
def test_a_width_outside_the_chunk_is_refused(width: float) -> None:
    tree = recipes.small_pi05_model(action_horizon=HORIZON) | {"action_smoothing": width}
    with pytest.raises(ConfigError, match="model.action_smoothing: expected 0 to 16 steps"):
        bind(PI0FlowMatching.Config, tree, "model")
