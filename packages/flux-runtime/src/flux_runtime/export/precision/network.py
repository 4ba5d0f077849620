"""The precision of a network: float32, half precision, float8, or float32 with int8 weights.

The noisy actions (x_t), the times and the projections from and to actions stay float32 in every
precision, because rounding errors there would add up over the Euler steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from flux_core.models import FlowPolicy
from flux_core.models.layers import Float32Norm

from .float8 import Float8Linear

Precision = Literal["fp32", "bf16", "fp16", "int8", "fp8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}
"""Types of the streams' values. fp8 uses bfloat16 except in the products of linear layers."""

# Opset 22 is the first with a bfloat16 convolution. From 23 on, attention is a single operator,
# which TensorRT supports for few shapes only and ONNX Runtime runs with fast kernels on CUDA.
DEFAULT_OPSETS: dict[str, int] = {"fp32": 20, "int8": 20, "bf16": 22, "fp16": 22, "fp8": 22}
OPSETS = (20, 22, 24)


class Int8Linear(nn.Module):
    """A linear layer whose weight is int8 times one float32 scale per output."""

    weight: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        largest = linear.weight.detach().abs().amax(dim=1, keepdim=True)
        scale = (largest / 127).clamp(min=torch.finfo(torch.float32).tiny)
        self.register_buffer("weight", (linear.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


def compute_dtype(precision: Precision) -> torch.dtype:
    """Returns the type of the streams' values."""
    return DTYPES.get(precision, torch.float32)


@torch.no_grad()
def set_precision(
    model: FlowPolicy, precision: Precision, largest_inputs: Mapping[str, float] | None = None
) -> None:
    """Converts the streams of a float32 network in place, tensor by tensor.

    The norms' own weights stay float32, like their variance. So do pi0.5's projections of the time
    inside the norms, which are replaced by tables.

    Args:
        model: the network.
        precision: the new precision.
        largest_inputs: layer name -> its largest input, for fp8; layers without one never run.
    """

    def float8(name: str, linear: nn.Linear) -> nn.Module:
        assert largest_inputs is not None
        if name not in largest_inputs:
            return linear
        return Float8Linear(linear, largest_inputs[name], DTYPES["fp8"])

    for name in model.streams:
        part = model.get_submodule(name)
        if precision == "int8":
            _replace_linears(part, name, lambda _, linear: Int8Linear(linear))
        elif precision == "fp8":
            _replace_linears(part, name, float8)
        if precision in DTYPES:
            _cast(part, DTYPES[precision])


def _cast(module: nn.Module, dtype: torch.dtype) -> None:
    if isinstance(module, Float32Norm):
        return
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.to(dtype)
    for child in module.children():
        _cast(child, dtype)


def _replace_linears(
    module: nn.Module, prefix: str, replacement: Callable[[str, nn.Linear], nn.Module]
) -> None:
    if isinstance(module, Float32Norm):
        return
    for key, child in module.named_children():
        name = f"{prefix}.{key}"
        if isinstance(child, nn.Linear):
            setattr(module, key, replacement(name, child))
        else:
            _replace_linears(child, name, replacement)
