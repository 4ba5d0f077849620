"""Real-time chunking (RTC): a new chunk continues the one that the robot is still executing.

While a chunk is computed, the robot executes the first `d` of its steps from the previous chunk.
They are the new chunk's *prefix*: already known, and the new chunk must agree with them. A policy
trained with random prefixes (`RTCTrainingConfig`) takes them as clean actions; any other policy can
be guided towards them (`RTCConfig(method='guidance')`). Names and defaults are FluxVLA's.

Sources: Black et al. 2025, "Real-Time Execution of Action Chunking Flow Policies" (guidance) and
"Training-Time Action Conditioning for Efficient Real-Time Chunking" (random prefixes).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigError

Schedule = Literal["exp", "linear", "ones", "zeros"]


@dataclass(frozen=True, kw_only=True)
class RTCTrainingConfig:
    """Random prefixes in training: the first 0 .. max_delay - 1 steps are clean, without loss.

    `uniform` draws all delays with the same probability, `exponential` with weight
    exp((max_delay - 1 - d) / temperature): short delays are more frequent.
    """

    enabled: bool = True
    max_delay: int = 5
    distribution: Literal["exponential", "uniform"] = "exponential"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.max_delay < 1:
            raise ConfigError(f"max_delay: expected at least 1, got {self.max_delay}")
        if self.temperature <= 0:
            raise ConfigError(f"temperature: expected a positive number, got {self.temperature}")

    def delays(self, stride: int = 1) -> tuple[int, ...]:
        """Returns the delays that may be drawn, all multiples of `stride`."""
        return tuple(range(0, self.max_delay, stride))

    def probabilities(self, stride: int = 1) -> tuple[float, ...]:
        """Returns the probability of each of `delays(stride)`."""
        exponents = [(self.max_delay - 1 - d) / self.temperature for d in self.delays(stride)]
        if self.distribution == "uniform":
            exponents = [0.0] * len(exponents)
        weights = [math.exp(x - max(exponents)) for x in exponents]
        return tuple(weight / sum(weights) for weight in weights)


@dataclass(frozen=True, kw_only=True)
class RTCConfig:
    """How a new chunk is made to agree with the previous one, at run time.

    `prefix` inserts the first `prefix_len` steps unchanged (for policies trained with
    `RTCTrainingConfig`). `guidance` pulls the whole flow towards the previous chunk, with weight 1
    up to `prefix_len` and then falling by `schedule` to 0 at `decay_end` (default 2 * prefix_len);
    `use_vjp` pulls through the network's Jacobian, as in the paper, which costs one backward pass
    per step. If `prefix_len` is None, it is the duration of the last inference in control steps.
    """

    enabled: bool = True
    method: Literal["prefix", "guidance"] = "prefix"
    prefix_len: int | None = None
    decay_end: int | None = None
    schedule: Schedule = "exp"
    max_guidance_weight: float = 5.0
    use_vjp: bool = False

    def __post_init__(self) -> None:
        if self.prefix_len is not None and self.prefix_len < 0:
            raise ConfigError(f"prefix_len: expected 0 or more steps, got {self.prefix_len}")
        if self.decay_end is not None and self.decay_end < (self.prefix_len or 0):
            raise ConfigError(
                f"decay_end: expected at least prefix_len ({self.prefix_len}), got {self.decay_end}"
            )
        if self.max_guidance_weight <= 0:
            raise ConfigError(
                f"max_guidance_weight: expected a positive number, got {self.max_guidance_weight}"
            )


def prefix_weights(
    prefix_len: int, decay_end: int, horizon: int, schedule: Schedule
) -> NDArray[np.float32]:
    """Returns (horizon,), the weight of each step: 1 in the prefix, 0 from `decay_end` on.

    Between them c falls in equal steps from below 1 to above 0, and the weight is c (`linear`),
    c * (e^c - 1) / (e - 1) (`exp`, the paper's equation 5), 1 (`ones`) or 0 (`zeros`).
    """
    end = min(max(decay_end, prefix_len), horizon)
    start = min(prefix_len, end)
    step = np.arange(horizon)
    c = np.clip((end - step) / (end - start + 1), 0.0, 1.0)
    if schedule == "exp":
        c = c * np.expm1(c) / math.expm1(1.0)
    elif schedule in ("ones", "zeros"):
        c = np.full(horizon, float(schedule == "ones"))
    weights = np.where(step < start, 1.0, np.where(step < end, c, 0.0))
    return weights.astype(np.float32)


def guidance_weight(t: float, maximum: float) -> float:
    """Returns the guidance weight at flow time `t` (the paper's equation 2; tau is 1 - t)."""
    tau = 1.0 - t
    if tau <= 0.0:
        return maximum
    return min(t / tau * (tau**2 + t**2) / t**2, maximum)
