"""Writes rtc_lerobot.safetensors: guided sampling as LeRobot's own RTC code does it.

    pip install --no-deps --target lerobot_0_4_4 lerobot==0.4.4
    python tests/golden/make_rtc_lerobot.py lerobot_0_4_4

The network is a formula that a test can write down again: v = tanh(mix @ x @ w_in + t) @ w_out.
LeRobot requires the gradient of x_t only after the network has run, so its guidance as shipped is
the one without the Jacobian (`actions`). A network that requires it earlier gets the paper's
guidance (`actions_vjp`) from the same code.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import save_file

BATCH, HORIZON, DIM, STEPS = 2, 16, 6, 10
SCHEDULES = ("LINEAR", "EXP", "ONES", "ZEROS")
# inference delay, execution horizon, steps left of the previous chunk, largest guidance weight
CASES = ((3, 8, 16, 5.0), (3, 8, 12, 10.0), (5, 5, 16, 5.0), (4, 20, 16, 10.0), (6, 10, 7, 5.0))


def main(folder: str) -> None:
    sys.path.insert(0, folder)
    # The package's own __init__ imports every policy and its dependencies.
    parent = types.ModuleType("lerobot.policies")
    parent.__path__ = [f"{folder}/lerobot/policies"]
    sys.modules["lerobot.policies"] = parent
    from lerobot.configs.types import RTCAttentionSchedule
    from lerobot.policies.rtc.configuration_rtc import RTCConfig
    from lerobot.policies.rtc.modeling_rtc import RTCProcessor

    torch.manual_seed(0)
    tensors = {
        "w_in": torch.randn(DIM, DIM),
        "w_out": torch.randn(DIM, DIM) / DIM,
        "mix": torch.randn(HORIZON, HORIZON) / HORIZON**0.5,
        "noise": torch.randn(BATCH, HORIZON, DIM),
        "previous": torch.randn(BATCH, HORIZON, DIM),
    }

    def velocity(x: torch.Tensor, t: float) -> torch.Tensor:
        return torch.tanh(tensors["mix"] @ x @ tensors["w_in"] + t) @ tensors["w_out"]

    for schedule in SCHEDULES:
        for index, (delay, horizon, left, weight) in enumerate(CASES):
            config = RTCConfig(
                enabled=True,
                prefix_attention_schedule=RTCAttentionSchedule[schedule],
                max_guidance_weight=weight,
            )
            rtc = RTCProcessor(config)
            key = f"{schedule.lower()}.{index}"
            tensors[f"{key}.weights"] = rtc.get_prefix_weights(delay, min(horizon, left), HORIZON)
            previous = tensors["previous"][:, :left]
            for name, early in (("actions", False), ("actions_vjp", True)):
                x_t = tensors["noise"]
                for k in range(STEPS):
                    t = 1.0 - k / STEPS
                    guided = rtc.denoise_step(
                        x_t,
                        previous,
                        delay,
                        t,
                        lambda x, t=t, early=early: velocity(x.requires_grad_(early), t),
                        execution_horizon=horizon,
                    )
                    x_t = x_t - guided.detach() / STEPS
                tensors[f"{key}.{name}"] = x_t
    save_file(
        {name: value.contiguous() for name, value in tensors.items()},
        Path(__file__).with_name("rtc_lerobot.safetensors"),
        metadata={"lerobot": "0.4.4", "cases": json.dumps(CASES)},
    )


if __name__ == "__main__":
    main(sys.argv[1])
