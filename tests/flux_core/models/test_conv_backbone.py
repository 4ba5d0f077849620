"""The small policy's own parts: keypoints from images, and smooth embeddings of numbers."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import torch

from flux_core.errors import ConfigError
from flux_core.models.layers.conv_backbone import ConvBackbone, soft_argmax
from flux_core.models.layers.initialization import NumberTokens, init_number_embeddings


def test_soft_argmax_is_the_expected_pixel() -> None:
    maps = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    weights = scipy.special.softmax(maps.numpy(), axis=(2, 3))
    rows, columns = np.linspace(-1, 1, 5)[:, None], np.linspace(-1, 1, 7)[None, :]
    x, y = (weights * columns).sum((2, 3)), (weights * rows).sum((2, 3))
    expected = np.concatenate([x, y], axis=1)
    np.testing.assert_allclose(soft_argmax(maps).numpy(), expected, atol=1e-6)


def test_tokens_follow_an_object_from_the_first_step_of_training() -> None:
    torch.manual_seed(0)
    model = ConvBackbone.Config(image_height=32, image_width=48).build()
    images = torch.full((3, 3, 32, 48), -0.5)
    images[1, :, 8:12, 8:12] = 1.0
    images[2, :, 8:12, 24:28] = 1.0
    nothing, left, right = model(images)
    assert nothing.shape == (4, 64)
    assert (left - nothing).abs().max() > 1e-2 and (left - right).abs().max() > 1e-2


def test_an_image_size_that_the_stride_does_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="image_width: expected a multiple of 4, got 50"):
        ConvBackbone.Config(image_width=50)


def test_embeddings_of_neighbouring_numbers_start_close_together() -> None:
    torch.manual_seed(0)
    embedding = torch.zeros(10 + 2 * 64, 128)
    init_number_embeddings(embedding, NumberTokens(first=10, tables=2, size=64))
    assert not embedding[:10].any()
    first, second = embedding[10:74], embedding[74:]
    neighbours = (first[1:] - first[:-1]).norm(dim=1)
    assert (first[0] - first[63]).norm() > 10 * neighbours.max()
    # Tables have different directions: a value in one is unrelated to the other.
    assert not torch.allclose(first, second, atol=0.1)
