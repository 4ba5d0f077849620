"""One network on many devices: copies (DDP) or shards (FSDP2); recomputation; compilation.

Whatever the wrapping, `full_state` and `load_full_state` use the plain network's parameter names,
so that any runner resumes from any other's checkpoint.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from flux_core.errors import ConfigError

from ..config.runner import FSDPTrainRunner, SingleTrainRunner, TrainRunner
from ..policy_loss import PolicyLoss
from .ranks import Ranks


def check_kind(runner: TrainRunner, ranks: Ranks) -> None:
    """Refuses a single-process runner if torchrun has started several processes.

    Raises:
        ConfigError: the message names the runners for several processes.
    """
    if isinstance(runner, SingleTrainRunner) and ranks.world_size > 1:
        raise ConfigError(
            f"runner.type: expected DDPTrainRunner (copies) or FSDPTrainRunner (shards) with the "
            f"{ranks.world_size} processes of torchrun, got SingleTrainRunner"
        )


def wrap(loss: PolicyLoss, runner: TrainRunner, ranks: Ranks) -> nn.Module:
    """Prepares `loss` for the runner; the training loop calls the result in its place."""
    blocks = loss.model.layers
    if runner.enable_gradient_checkpointing:
        recompute(blocks)
    if is_sharded(runner, ranks):
        assert isinstance(runner, FSDPTrainRunner)
        if runner.compile:
            for block in blocks:
                block.compile()
        shard(loss, blocks, runner, ranks)
        return loss
    if runner.compile:
        loss.compile()
    if ranks.world_size == 1:
        return loss
    devices = [ranks.device] if ranks.device.type == "cuda" else None
    return DistributedDataParallel(loss, device_ids=devices, gradient_as_bucket_view=True)


def is_sharded(runner: TrainRunner, ranks: Ranks) -> bool:
    """Whether the network is sharded, so that no process holds all of it."""
    wants = isinstance(runner, FSDPTrainRunner) and runner.sharding_strategy != "no-shard"
    return wants and ranks.world_size > 1


def recompute(layers: list[nn.Module]) -> None:
    """Stores only the layers' inputs; the backward pass recomputes the rest."""
    for layer in layers:
        forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
        layer.forward = forward


def shard(loss: PolicyLoss, layers: list[nn.Module], runner: FSDPTrainRunner, ranks: Ranks) -> None:
    """Shards every layer, and the parameters outside the layers, over the processes."""
    mesh = device_mesh(runner, ranks)
    reshard = runner.sharding_strategy != "shard-grad-op"
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=reshard)
    fully_shard(loss, mesh=mesh, reshard_after_forward=reshard)


def device_mesh(runner: FSDPTrainRunner, ranks: Ranks) -> DeviceMesh:
    """Shards within a node and copies between nodes, or shards over all processes."""
    nodes = ranks.world_size // ranks.per_node
    kind = ranks.device.type
    if runner.sharding_strategy == "full-shard" or nodes == 1:
        return init_device_mesh(kind, (ranks.world_size,))
    return init_device_mesh(kind, (nodes, ranks.per_node), mesh_dim_names=("replicate", "shard"))


@contextlib.contextmanager
def gradients_kept_local(module: nn.Module, is_last: bool) -> Iterator[None]:
    """Inside the context, gradients are exchanged only for the last micro-batch of a step."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(is_last)
        yield
    elif isinstance(module, DistributedDataParallel) and not is_last:
        with module.no_sync():
            yield
    else:
        yield


@contextlib.contextmanager
def whole(module: nn.Module) -> Iterator[None]:
    """Gathers the sharded parameters outside the layers while the context lasts.

    Afterwards no process holds a gathered copy, which a change of the shards would not reach.
    """
    if not isinstance(module, FSDPModule):
        yield
        return
    module.unshard()
    try:
        yield
    finally:
        for part in module.modules():
            if isinstance(part, FSDPModule):
                part.reshard()


def clip_gradients(parameters: list[nn.Parameter], max_norm: float) -> Tensor:
    """Clips the gradients' global norm; returns the norm before, over all processes."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def full_state(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights and optimiser state by parameter name, on the CPU, in the main process only."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return (
        dict(get_model_state_dict(model, options=options)),
        dict(get_optimizer_state_dict(model, optimizer, options=options)),
    )


def sharded_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """This process's shards of weights and optimiser state, by parameter name."""
    return {
        "model": dict(get_model_state_dict(model)),
        "optimizer": dict(get_optimizer_state_dict(model, optimizer)),
    }


def load_sharded_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> None:
    """Loads what `sharded_state` returned."""
    set_model_state_dict(model, state["model"])
    set_optimizer_state_dict(model, optimizer, state["optimizer"])


def load_full_state(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    weights: Mapping[str, Any],
    state: Mapping[str, Any],
    ranks: Ranks,
) -> None:
    """Loads what `full_state` returned, from the main process's arguments."""
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=ranks.world_size > 1)
    set_model_state_dict(model, dict(weights), options=options)
    set_optimizer_state_dict(model, optimizer, dict(state), options=options)


def full_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gathers sharded tensors on the CPU, in every process."""
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu()
        for name, value in tensors.items()
    }
