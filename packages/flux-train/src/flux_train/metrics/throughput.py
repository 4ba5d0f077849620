"""What a step costs and what the device can do, for the model FLOPs utilisation (MFU)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

PEAK_BF16_FLOPS: dict[str, float] = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 5090": 210e12,
    "RTX 4090": 165e12,
}
"""Dense bf16 with fp32 accumulation in FLOP/s, from the vendors' data sheets."""


def peak_flops(device: torch.device) -> float | None:
    """The device's peak in FLOP/s; None if it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_BF16_FLOPS.items() if part in name), None)


def counted_flops(work: Callable[[], Any]) -> tuple[Any, int]:
    """Runs `work` and counts the floating point operations of its matrix products."""
    counter = FlopCounterMode(display=False)
    with counter:
        answer = work()
    return answer, counter.get_total_flops()
