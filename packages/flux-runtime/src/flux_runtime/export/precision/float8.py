"""Linear layers in float8 (e4m3: 3-bit mantissa, largest value 448).

The two operations are ONNX's QuantizeLinear and DequantizeLinear. PyTorch computes them with casts
to its own float8; the exporter writes the ONNX operators, which TensorRT fuses into products. Only
that needs onnx.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FLOAT8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FLOAT8).max
SMALLEST_SCALE = 2.0**-60


@torch.library.custom_op("flux::quantize_linear", mutates_args=())
def quantize_linear(x: Tensor, scale: Tensor) -> Tensor:
    """Returns x / scale in float8, rounded to nearest even and clipped to +-448."""
    return (x / scale).clamp(-LARGEST, LARGEST).to(FLOAT8)


@torch.library.custom_op("flux::dequantize_linear", mutates_args=())
def dequantize_linear(x: Tensor, scale: Tensor) -> Tensor:
    """Returns x * scale in the type of `scale`, which is a scalar or has one value per column."""
    return x.to(scale.dtype) * scale


@quantize_linear.register_fake
def _(x: Tensor, scale: Tensor) -> Tensor:
    return torch.empty_like(x, dtype=FLOAT8)


@dequantize_linear.register_fake
def _(x: Tensor, scale: Tensor) -> Tensor:
    return torch.empty_like(x, dtype=scale.dtype)


def _onnx_quantize(x, scale):  # type: ignore[no-untyped-def]
    import onnx
    from onnxscript import opset22

    return opset22.QuantizeLinear(x, scale, output_dtype=onnx.TensorProto.FLOAT8E4M3FN)


def _onnx_dequantize(x, scale):  # type: ignore[no-untyped-def]
    from onnxscript import opset22

    return opset22.DequantizeLinear(x, scale, axis=-1)


ONNX_OPERATORS = {
    torch.ops.flux.quantize_linear.default: _onnx_quantize,
    torch.ops.flux.dequantize_linear.default: _onnx_dequantize,
}
"""What the exporter writes for each of the two operations."""


class Float8Linear(nn.Module):
    """A linear layer that multiplies float8 inputs with float8 weights.

    Scales are powers of two. They are exact in every type, so that all engines round like PyTorch,
    and float8 loses no precision through them. The input has one scale, and each output has one.
    """

    weight: Tensor
    weight_scale: Tensor
    input_scale: Tensor

    def __init__(self, linear: nn.Linear, largest_input: float, dtype: torch.dtype) -> None:
        """`largest_input` comes from calibration; `dtype` is that of inputs and outputs."""
        super().__init__()
        # (in, out), so that engines do not have to transpose float8.
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
    """Returns the smallest power of two that scales `largest` down to at most 448."""
    return torch.exp2((largest.float() / LARGEST).clamp(min=SMALLEST_SCALE).log2().ceil())
