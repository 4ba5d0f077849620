"""Refuses weights that are not finite numbers, by name, where they are loaded."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import CheckpointError

LOADED = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""Types of weights that mean what they say; 8-bit and integer weights have scales beside them."""


def as_weight(name: str, value: Tensor, where: str) -> Tensor:
    """Returns a foreign file's weight, which float32 can hold.

    Args:
        name: the weight's name.
        value: the weight, as the file has it.
        where: the file, for the message.

    Raises:
        CheckpointError: it is of another type, quantised or complex; or it is not finite.
    """
    if value.dtype not in LOADED:
        wanted = ", ".join(str(each).removeprefix("torch.") for each in LOADED)
        raise CheckpointError(
            f"{where}: {name}: expected weights of type {wanted}, got "
            f"{str(value.dtype).removeprefix('torch.')}. Save them so where they were made"
        )
    value = value.float() if value.dtype is torch.float64 else value
    check_finite(name, value, where)
    return value


def check_finite(name: str, value: Tensor, where: str) -> None:
    """Refuses a weight that holds NaN or infinity.

    Args:
        name: the weight's name.
        value: the weight; integers and tensors on the meta device are not checked.
        where: the file, for the message.

    Raises:
        CheckpointError: it names the weight and the first such value.
    """
    if value.is_meta or not value.is_floating_point() or not value.numel():
        return
    # The extremes are NaN or infinite if any value is; unlike `isfinite` this needs no copy.
    low, high = torch.aminmax(value)
    if torch.isfinite(low) and torch.isfinite(high):
        return
    bad = ~torch.isfinite(value)
    place = tuple(int(i) for i in bad.nonzero()[0])
    raise CheckpointError(
        f"{where}: {name}: expected finite weights, got {value[place].item()} at {list(place)} and "
        f"{int(bad.sum()) - 1} more. The training that wrote it diverged, or the file is damaged: "
        "take an earlier checkpoint"
    )
