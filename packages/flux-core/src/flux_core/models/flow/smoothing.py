"""Smooth chunks: the clean actions that each step of the flow predicts pass through a smoother.

A small network predicts every step of a chunk with an error of its own. Few as they are in
millimetres, the differences between neighbours are more acceleration and jerk than an arm allows.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@cache
def smoothing_matrix(horizon: int, width: float) -> NDArray[np.float32]:
    """Returns (horizon, horizon): the weights of the steps (columns) in each smoothed step (rows).

    A smoothed step is the value of a straight line there that is fitted to all steps with weights
    exp(-distance^2 / (2 width^2)) (local linear regression: Cleveland 1979, with Gaussian
    weights). So a straight line stays as it is, at both ends too.

    Args:
        horizon: steps of a chunk.
        width: in steps, above 0.
    """
    steps = np.arange(horizon)
    rows: list[NDArray[np.float64]] = []
    for step in steps:
        distance = (steps - step).astype(np.float64)
        weights = np.exp(-0.5 * (distance / width) ** 2)
        line = np.stack([np.ones(horizon), distance])
        rows.append(np.linalg.solve((line * weights) @ line.T, line * weights)[0])
    return np.stack(rows).astype(np.float32)


def smoother(horizon: int, width: float) -> Tensor | None:
    """Returns `smoothing_matrix` as a tensor; None if `width` is 0."""
    return None if width == 0.0 else torch.from_numpy(smoothing_matrix(horizon, width).copy())


def smoothed_velocity(
    velocity: Tensor,
    x_t: Tensor,
    t: Tensor,
    weights: Tensor | None,
    unsmoothed: Tensor | None = None,
) -> Tensor:
    """Returns the velocity towards smoothed clean actions; `velocity` itself without weights.

    The clean actions that a velocity points to are x_t - t * velocity. Steps at t = 0 are known;
    the smoothed ones beside them take them into account.

    Args:
        velocity: (B, H, A) float32.
        x_t: (B, H, A) float32.
        t: (B, H) or (B, 1) float32 times.
        weights: (H, H) of `smoother`.
        unsmoothed: (A,) True where actions stay as they are, as they are 0 or 1; None: nowhere.
    """
    if weights is None:
        return velocity
    time = t[..., None]
    clean = x_t - time * velocity
    rough = clean - torch.matmul(weights, clean)
    smoothed = velocity + torch.where(time > 0.0, rough / time.clamp(min=1e-6), 0.0)
    return smoothed if unsmoothed is None else torch.where(unsmoothed, velocity, smoothed)
