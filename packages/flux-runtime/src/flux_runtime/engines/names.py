"""The names of the engines."""

from __future__ import annotations

from typing import Literal, get_args

EngineName = Literal[
    "onnxruntime",
    "onnxruntime-cuda",
    "onnxruntime-tensorrt",
    "tensorrt",
    "cuda",
    "openvino",
    "openvino-bf16",
]
"""What runs a bundle's graphs: ONNX Runtime on the CPU, or on an NVIDIA card with CUDA's or
TensorRT's kernels; TensorRT itself, as one CUDA graph; Flux's own kernels, likewise; OpenVINO on
the CPU, in float32 or in bfloat16."""

ENGINES: tuple[EngineName, ...] = get_args(EngineName)
CARD_ENGINES: tuple[EngineName, ...] = (
    "onnxruntime-cuda",
    "onnxruntime-tensorrt",
    "tensorrt",
    "cuda",
)
"""The engines that run on an NVIDIA card."""
AUTO = "auto"
"""Uses an NVIDIA card if `cuda` or the installed ONNX Runtime can use it, and the CPU otherwise."""
