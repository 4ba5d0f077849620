"""Packs query, key and value projections into one matrix: fewer, larger products at run time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import CheckpointError

PACKED = ("q_proj", "k_proj", "v_proj")


class Projections(nn.Module):
    """The base of attention layers with `q_proj`, `k_proj` and `v_proj` of one input.

    They use `packed` in place of the three if it is there, which `pack_qkv` decides.
    """

    def __init__(self) -> None:
        super().__init__()
        self.packed: nn.Module | None = None


class PackedProjections(nn.Module):
    """Replaces three linear layers with the same input; returns their three outputs."""

    def __init__(self, layers: list[nn.Linear]) -> None:
        super().__init__()
        self.sizes = [layer.out_features for layer in layers]
        self.qkv_proj = nn.Linear(
            layers[0].in_features,
            sum(self.sizes),
            bias=layers[0].bias is not None,
            device="meta",
        )
        with torch.no_grad():
            for name, parameter in layers[0].named_parameters():
                parts = [getattr(layer, name) for layer in layers]
                packed = nn.Parameter(torch.cat(parts), requires_grad=parameter.requires_grad)
                setattr(self.qkv_proj, name, packed)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, T, W) -> queries, keys and values, (B, T, heads * D) each."""
        return self.qkv_proj(x).split(self.sizes, dim=-1)


def pack_qkv(model: nn.Module) -> int:
    """Packs every attention layer of a network, in place, one at a time.

    For inference only: the weights then have names that no checkpoint has.

    Returns:
        The number of layers packed.

    Raises:
        CheckpointError: a projection is not a plain linear layer (an adapter is not merged yet).
    """
    packed = 0
    for name, module in model.named_modules():
        if not isinstance(module, Projections) or module.packed is not None:
            continue
        layers = [getattr(module, part) for part in PACKED]
        if any(type(layer) is not nn.Linear for layer in layers):
            raise CheckpointError(
                f"{name}: expected plain linear layers, got others. Merge LoRA first"
            )
        module.packed = PackedProjections(layers)
        for part in PACKED:
            delattr(module, part)
        packed += 1
    return packed
