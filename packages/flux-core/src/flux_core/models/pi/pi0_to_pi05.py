"""A pi0 checkpoint as the starting point of a pi0.5.

As in LeRobot, the time MLP takes the weights of pi0's action-time MLP, and `state_proj` is dropped.
LeRobot initialises the expert's adaRMS norms randomly; here they start as pi0's norms (scale from
the weight, no shift, gate 1, whatever the condition), so that the expert's blocks compute the same
as in pi0. Only the half of the action-time MLP's first layer that reads the time is used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..flow.checkpoints import StoredTensor

RENAMED = {"action_time_mlp_in.": "time_mlp_in.", "action_time_mlp_out.": "time_mlp_out."}
TIME_IN = "action_time_mlp_in.projector.weight"


def pi05_from_pi0(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Returns a pi0.5's tensors, made from a pi0's (both under our names) when they are read."""
    made: dict[str, StoredTensor] = {}
    width = tensors[TIME_IN].shape[0]
    for name, tensor in tensors.items():
        if name.startswith("state_proj."):
            continue
        if name.startswith("llm_expert.") and name.endswith("norm.weight"):
            norm = name.removesuffix("weight")
            made[f"{norm}dense.weight"] = _no_condition(tensor, width)
            made[f"{norm}dense.bias"] = _constant_modulation(tensor)
        elif name == TIME_IN:
            made["time_mlp_in.projector.weight"] = _time_half(tensor)
        else:
            prefix = next((old for old in RENAMED if name.startswith(old)), None)
            made[name if prefix is None else name.replace(prefix, RENAMED[prefix])] = tensor
    return made


def _no_condition(weight: StoredTensor, cond_dim: int) -> StoredTensor:
    shape = (3 * weight.shape[0], cond_dim)
    return _derived(weight, shape, lambda: torch.zeros(shape, dtype=weight.dtype))


def _constant_modulation(weight: StoredTensor) -> StoredTensor:
    def read() -> Tensor:
        scale = weight.read()
        return torch.cat((scale, torch.zeros_like(scale), torch.ones_like(scale)))

    return _derived(weight, (3 * weight.shape[0],), read)


def _time_half(weight: StoredTensor) -> StoredTensor:
    width = weight.shape[0]
    # The input is [action; time] (openpi `embed_suffix`).
    return _derived(weight, (width, width), lambda: weight.read()[:, -width:])


def _derived(
    source: StoredTensor, shape: tuple[int, ...], read: Callable[[], Tensor]
) -> StoredTensor:
    return dataclasses.replace(source, shape=shape, read=read)
