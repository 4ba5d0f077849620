"""Writes `rtc_lerobot.safetensors`: what LeRobot's real-time chunking answers for a toy field.

The guidance, its weights and the Euler loop are LeRobot's, unmodified; only the velocity field is
ours, so that a test can build it again from the tensors `field.*`:

    v(x, t) = mix @ (tanh(x @ w1 + t * b1) @ w2)        x (B, H, A), t in [0, 1], 1 is noise

LeRobot 0.6.1 asks for Python 3.12 and an older torch, but nothing used here does; the packages
around it import much more, and are replaced by empty ones. In a throwaway environment:

    pip install torch==2.13.0 numpy safetensors
    pip install --no-deps --ignore-requires-python lerobot==0.6.1
    python tests/golden/make_rtc_lerobot.py
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

OUTPUT = Path(__file__).with_name("rtc_lerobot.safetensors")
BATCH, HORIZON, ACTION_DIM, HIDDEN = 2, 16, 6, 8
NUM_STEPS = 10
SCHEDULES = ("LINEAR", "EXP", "ONES", "ZEROS")
MAX_GUIDANCE_WEIGHTS = (5.0, 10.0)
WEIGHT_RANGES = (  # (start, end, total)
    (0, 8, 16),
    (0, 16, 16),
    (0, 0, 16),
    (1, 2, 16),
    (4, 10, 16),
    (4, 4, 16),
    (4, 16, 16),
    (16, 16, 16),
    (3, 10, 10),
    (4, 20, 16),  # the end lies behind the chunk
    (8, 5, 16),  # the start lies behind the end
)
VELOCITY_TIMES = (1.0, 0.7, 0.3, 0.1)
VELOCITY_CASE = (4, 10, 16)  # (inference_delay, execution_horizon, known)
GUIDANCE_TIMES = (1.0, 0.999, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.001)
ACTION_CASES = (  # (inference_delay, execution_horizon, known)
    (0, 8, 16),
    (4, 10, 16),
    (4, 4, 16),
    (3, 16, 16),
    (4, 12, 10),  # fewer steps are known than the execution horizon asks for
    (3, 10, 5),
)

DESCRIPTION = {
    "field.*": "w1 (A, 8), b1 (8,), w2 (8, A), mix (H, H): "
    "v(x, t) = mix @ (tanh(x @ w1 + t * b1) @ w2), t = 1 is noise",
    "noise": "(B, H, A) where the Euler loops start; also the x_t of velocity.*",
    "previous": "(B, H, A) the chunk before, from its first step that is not executed yet; a case "
    "with known = K gives LeRobot its first K steps",
    "weights.SCHEDULE.START_END_TOTAL": "(TOTAL,) get_prefix_weights(START, END, TOTAL)",
    "guidance_times": "(12,) float64 the times of guidance_weight.*",
    "guidance_weight.MAX": "(12,) after the cut at max_guidance_weight = MAX",
    "velocity_times": "(4,) float64 the times of velocity.*",
    "velocity_case": "(3,) inference_delay, execution_horizon, known of velocity.*",
    "velocity.free": "(4, B, H, A) v(noise, t)",
    "velocity.JACOBIAN.SCHEDULE.MAX": "(4, B, H, A) denoise_step(noise) at each time",
    "action_cases": "(6, 3) inference_delay, execution_horizon, known of actions.*",
    "actions.free": "(B, H, A) after 10 Euler steps without guidance",
    "actions.JACOBIAN.SCHEDULE.MAX": "(6, B, H, A) after 10 Euler steps with it, one for each case",
    "JACOBIAN": "'identity' is LeRobot as its policies run it: the velocity is computed before "
    "x_t asks for a gradient, so the correction is the weighted error itself. 'network' is the "
    "same code with a field that asks for x_t's gradient first, so the correction is the "
    "vector-Jacobian product through the field, as in the paper",
    "training_time": "this release has no training-time RTC (sample_rtc_delay, "
    "apply_rtc_training_time), so nothing of it is stored",
}


@dataclass(frozen=True, kw_only=True)
class LeRobot:
    """The few names of LeRobot that are used."""

    version: str
    config: type[Any]
    schedule: type[Any]
    processor: type[Any]
    euler_integrate: Callable[..., Tensor]

    def rtc(self, schedule: str, maximum: float, *, debug: bool = False) -> Any:
        """An RTCProcessor."""
        config = self.config(
            prefix_attention_schedule=self.schedule(schedule),
            max_guidance_weight=maximum,
            debug=debug,
        )
        return self.processor(config)


def import_lerobot() -> LeRobot:
    """Imports LeRobot's RTC modules as they are, without the packages they lie in."""
    lerobot = importlib.import_module("lerobot")
    root = Path(lerobot.__file__).parent
    for name in ("configs", "policies", "policies.rtc", "policies.common"):
        package = ModuleType(f"lerobot.{name}")
        package.__path__ = [str(root.joinpath(*name.split(".")))]
        sys.modules[package.__name__] = package
    schedule = importlib.import_module("lerobot.configs.types").RTCAttentionSchedule
    sys.modules["lerobot.configs"].RTCAttentionSchedule = schedule
    flow_matching = importlib.import_module("lerobot.policies.common.flow_matching")
    return LeRobot(
        version=lerobot.__version__,
        config=importlib.import_module("lerobot.policies.rtc.configuration_rtc").RTCConfig,
        schedule=schedule,
        processor=importlib.import_module("lerobot.policies.rtc.modeling_rtc").RTCProcessor,
        euler_integrate=flow_matching.euler_integrate,
    )


@dataclass(frozen=True, kw_only=True)
class Field:
    """A velocity that mixes dimensions and steps, so that its Jacobian is full."""

    w1: Tensor
    b1: Tensor
    w2: Tensor
    mix: Tensor
    is_differentiable: bool = False

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """(B, H, A) at times t (B,)."""
        if self.is_differentiable:
            x.requires_grad_()
        return self.mix @ (torch.tanh(x @ self.w1 + t[:, None, None] * self.b1) @ self.w2)


def seeded_inputs() -> dict[str, Tensor]:
    """The field's tensors, the noise and the chunk before, float32."""
    generator = torch.Generator().manual_seed(20250607)

    def normal(*shape: int, scale: float) -> Tensor:
        return scale * torch.randn(shape, generator=generator)

    return {
        "field.w1": normal(ACTION_DIM, HIDDEN, scale=ACTION_DIM**-0.5),
        "field.b1": normal(HIDDEN, scale=1.0),
        "field.w2": normal(HIDDEN, ACTION_DIM, scale=HIDDEN**-0.5),
        "field.mix": torch.eye(HORIZON) + normal(HORIZON, HORIZON, scale=0.5 * HORIZON**-0.5),
        "noise": normal(BATCH, HORIZON, ACTION_DIM, scale=1.0),
        "previous": normal(BATCH, HORIZON, ACTION_DIM, scale=0.5),
    }


def prefix_weights(lerobot: LeRobot) -> dict[str, Tensor]:
    """Each schedule's weights for each of WEIGHT_RANGES."""
    return {
        f"weights.{schedule}.{start}_{end}_{total}": lerobot.rtc(schedule, 10.0).get_prefix_weights(
            start, end, total
        )
        for schedule in SCHEDULES
        for start, end, total in WEIGHT_RANGES
    }


def guided_velocity(
    rtc: Any, field: Field, inputs: dict[str, Tensor], t: float, case: tuple[int, int, int]
) -> Tensor:
    """LeRobot's velocity at the noise, (B, H, A)."""
    delay, horizon, known = case
    time = torch.full((BATCH,), t)
    velocity = rtc.denoise_step(
        x_t=inputs["noise"],
        prev_chunk_left_over=inputs["previous"][:, :known],
        inference_delay=delay,
        time=t,
        original_denoise_step_partial=lambda x: field(x, time),
        execution_horizon=horizon,
    )
    return velocity.detach()


def guidance_weights(
    lerobot: LeRobot, field: Field, inputs: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The weight of the correction at GUIDANCE_TIMES, as LeRobot's own tracker saw it."""
    weights = {}
    for maximum in MAX_GUIDANCE_WEIGHTS:
        rtc = lerobot.rtc("LINEAR", maximum, debug=True)
        for t in GUIDANCE_TIMES:
            guided_velocity(rtc, field, inputs, t, VELOCITY_CASE)
        seen = [float(step.guidance_weight) for step in rtc.get_all_debug_steps()]
        assert len(seen) == len(GUIDANCE_TIMES)
        weights[f"guidance_weight.{maximum:g}"] = torch.tensor(seen)
    return weights


def guided_actions(
    lerobot: LeRobot,
    rtc: Any,
    field: Field,
    inputs: dict[str, Tensor],
    case: tuple[int, int, int],
) -> Tensor:
    """LeRobot's chunk, (B, H, A)."""
    delay, horizon, known = case
    return lerobot.euler_integrate(
        field,
        inputs["noise"],
        NUM_STEPS,
        rtc_processor=rtc,
        rtc_enabled=True,
        inference_delay=delay,
        prev_chunk_left_over=inputs["previous"][:, :known],
        execution_horizon=horizon,
    )


@torch.no_grad()
def golden(lerobot: LeRobot) -> dict[str, Tensor]:
    """Every tensor of the file."""
    inputs = seeded_inputs()
    parts = {name.removeprefix("field."): x for name, x in inputs.items() if "field." in name}
    fields = {"identity": Field(**parts), "network": Field(**parts, is_differentiable=True)}
    free = fields["identity"]
    tensors = inputs | prefix_weights(lerobot) | guidance_weights(lerobot, free, inputs)
    tensors["guidance_times"] = torch.tensor(GUIDANCE_TIMES, dtype=torch.float64)
    tensors["velocity_times"] = torch.tensor(VELOCITY_TIMES, dtype=torch.float64)
    tensors["velocity_case"] = torch.tensor(VELOCITY_CASE)
    tensors["action_cases"] = torch.tensor(ACTION_CASES)
    tensors["velocity.free"] = torch.stack(
        [free(inputs["noise"], torch.full((BATCH,), t)) for t in VELOCITY_TIMES]
    )
    tensors["actions.free"] = lerobot.euler_integrate(free, inputs["noise"], NUM_STEPS)
    for jacobian, field in fields.items():
        for schedule in SCHEDULES:
            for maximum in MAX_GUIDANCE_WEIGHTS:
                rtc, name = lerobot.rtc(schedule, maximum), f"{jacobian}.{schedule}.{maximum:g}"
                tensors[f"velocity.{name}"] = torch.stack(
                    [guided_velocity(rtc, field, inputs, t, VELOCITY_CASE) for t in VELOCITY_TIMES]
                )
                tensors[f"actions.{name}"] = torch.stack(
                    [guided_actions(lerobot, rtc, field, inputs, case) for case in ACTION_CASES]
                )
    return tensors


def main() -> None:
    """Writes the file, and says what is in it."""
    torch.set_num_threads(1)
    lerobot = import_lerobot()
    tensors = {name: tensor.contiguous() for name, tensor in golden(lerobot).items()}
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
    versions = {"lerobot": lerobot.version, "torch": torch.__version__.partition("+")[0]}
    # One entry: the order of several is not the same in every run.
    save_file(tensors, OUTPUT, metadata={"about": json.dumps(versions | DESCRIPTION)})
    for name, tensor in sorted(tensors.items()):
        print(f"{name:40} {tuple(tensor.shape)} {tensor.dtype}")
    print(f"{OUTPUT.name}: {OUTPUT.stat().st_size / 1000:.0f} kB, {versions}")


if __name__ == "__main__":
    main()
