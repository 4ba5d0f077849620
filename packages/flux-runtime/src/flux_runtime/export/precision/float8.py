"""Linear layers in float8 (e4m3: 3 bits of mantissa, largest value 448).

The two operations are ONNX's QuantizeLinear and DequantizeLinear. PyTorch computes them by casts to
its own float8, and the exporter writes the operators, which TensorRT fuses into float8 products.
"""

from __future__ import annotations

import onnx
import torch
from onnxscript import opset22
from torch import Tensor, nn

FLOAT8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FLOAT8).max
SMALLEST_SCALE = 2.0**-60


@torch.library.custom_op("flux::quantize_linear", mutates_args=())
def quantize_linear(x: Tensor, scale: Tensor) -> Tensor:
    """x / scale as float8, the nearest even; what is too large becomes +-448."""
    return (x / scale).clamp(-LARGEST, LARGEST).to(FLOAT8)


@torch.library.custom_op("flux::dequantize_linear", mutates_args=())
def dequantize_linear(x: Tensor, scale: Tensor) -> Tensor:
    """x * scale in the type of `scale`, which is one number, or one for each of the last axis."""
    return x.to(scale.dtype) * scale


@quantize_linear.register_fake
def _(x: Tensor, scale: Tensor) -> Tensor:
    return torch.empty_like(x, dtype=FLOAT8)


@dequantize_linear.register_fake
def _(x: Tensor, scale: Tensor) -> Tensor:
    return torch.empty_like(x, dtype=scale.dtype)


def _onnx_quantize(x, scale):  # type: ignore[no-untyped-def]
    return opset22.QuantizeLinear(x, scale, output_dtype=onnx.TensorProto.FLOAT8E4M3FN)


def _onnx_dequantize(x, scale):  # type: ignore[no-untyped-def]
    return opset22.DequantizeLinear(x, scale, axis=-1)


ONNX_OPERATORS = {
    torch.ops.flux.quantize_linear.default: _onnx_quantize,
    torch.ops.flux.dequantize_linear.default: _onnx_dequantize,
}
"""What the exporter writes for each of the two operations."""


class Float8Linear(nn.Module):
    """A linear layer that multiplies float8 inputs with float8 weights.

    Scales are powers of two: exact in every type, so that no engine rounds otherwise than PyTorch,
    and a floating-point type loses nothing by them. The input has one, each output one of its own.
    """

    weight: Tensor
    weight_scale: Tensor
    input_scale: Tensor

    def __init__(self, linear: nn.Linear, largest_input: float, dtype: torch.dtype) -> None:
        """`largest_input` is what calibration saw; `dtype` that of inputs and outputs."""
        super().__init__()
        # (in, out), as the graph multiplies: engines would have to transpose float8.
        weight = linear.weight.detach().T
        scale = scale_for(weight.abs().amax(dim=0))
        self.register_buffer("weight", quantize_linear(weight, scale).contiguous())
        self.register_buffer("weight_scale", scale.to(dtype))
        self.register_buffer("input_scale", scale_for(torch.tensor(largest_input)).to(dtype))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        x = dequantize_linear(quantize_linear(x, self.input_scale), self.input_scale)
        y = x @ dequantize_linear(self.weight, self.weight_scale)
        return y if self.bias is None else y + self.bias


def scale_for(largest: Tensor) -> Tensor:
    """The smallest power of two by which `largest` becomes at most 448."""
    return torch.exp2((largest.float() / LARGEST).clamp(min=SMALLEST_SCALE).log2().ceil())
