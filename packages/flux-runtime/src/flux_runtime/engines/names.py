"""The engines by name."""

from __future__ import annotations

from typing import Literal, get_args

EngineName = Literal[
    "onnxruntime",
    "onnxruntime-cuda",
    "onnxruntime-tensorrt",
    "tensorrt",
    "openvino",
    "openvino-bf16",
]
"""What runs a bundle's graphs: ONNX Runtime on the processor, or on an NVIDIA card with CUDA's or
TensorRT's kernels; TensorRT itself, as one CUDA graph; OpenVINO on the processor, as precisely as
it can or in bfloat16."""

ENGINES: tuple[EngineName, ...] = get_args(EngineName)
CARD_ENGINES: tuple[EngineName, ...] = ("onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt")
"""Those that run on an NVIDIA card."""
AUTO = "auto"
"""An NVIDIA card if there is one that the installed ONNX Runtime can use, else the processor."""
