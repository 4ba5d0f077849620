"""pi0.5: the state is text in the prompt, and the time conditions every norm of the expert."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...errors import ConfigError
from ...norm_stats import NormType
from ...transforms import Rule, rules
from ..flow.policy import Size
from ..flow.tables import StepIndex, StepTable
from ..layers.basic import AdaRMSNorm, LinearProjector
from .pi0 import PI0FlowMatching, Suffix
from .sizes import sized_model


class PI05FlowMatching(PI0FlowMatching):
    """The pi0.5 policy: no state token, adaRMS norms in the expert."""

    kind: ClassVar[str] = "pi05"
    num_state_tokens: ClassVar[int] = 0

    @dataclass(frozen=True, kw_only=True)
    class Config(PI0FlowMatching.Config):
        """Like pi0, without `state_proj`; the expert needs `use_adarms=True`."""

        time_mlp_in: LinearProjector.Config | None = None
        time_mlp_out: LinearProjector.Config | None = None

        norm_type: ClassVar[NormType] = "quantile"
        state_in_prompt: ClassVar[bool] = True
        prompt_tokens: ClassVar[int] = 200
        rules: ClassVar[Mapping[str, Rule]] = rules(
            "checked", "they follow from proj_width", "time_mlp_in", "time_mlp_out"
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.state_proj is not None:
                raise ConfigError("state_proj: pi0.5 reads the state from the prompt; remove it")
            if self.llm_expert.cond_dim != self.proj_width:
                raise ConfigError(
                    f"llm_expert: pi0.5 expects use_adarms=True and adarms_cond_dim="
                    f"{self.proj_width} (proj_width), got {self.llm_expert.cond_dim}"
                )

        def build(self) -> PI05FlowMatching:
            return PI05FlowMatching(self)

        @classmethod
        def sized(cls, size: Size) -> dict[str, Any]:
            return sized_model("pi05", size)

    def _build_time_mlp(self, config: PI0FlowMatching.Config) -> None:
        square = LinearProjector.Config(in_dim=config.proj_width, out_dim=config.proj_width)
        for name in ("time_mlp_in", "time_mlp_out"):
            given = getattr(config, name) or square
            if given != square:
                raise ConfigError(f"{name}: expected {square}, got {given}")
        self.time_mlp_in, self.time_mlp_out = square.build(), square.build()
        # Replaces both and the norms' projections, once an exporter has turned them into tables.
        self.step_index: nn.Module | None = None

    def _tabulate_times(self, times: Tensor, num_inference_steps: int) -> None:
        """Saves a quarter of the expert's weights: the projections of the time in every norm."""
        condition = self.condition(times, torch.float32)[0]
        for module in self.llm_expert.modules():
            if isinstance(module, AdaRMSNorm):
                module.add_module("dense", StepTable(module.dense(condition)))
        self.step_index = StepIndex(num_inference_steps)

    def embed_suffix(self, state: Tensor | None, x_t: Tensor, t: Tensor) -> Suffix:
        """Returns the action tokens and the adaRMS condition (B, 1 or H, W)."""
        actions = self.action_in_proj(x_t)
        if self.step_index is not None:
            return Suffix(actions, self.step_index(t))
        return Suffix(actions, self.condition(t, actions.dtype))

    def condition(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        """Turns the times (B, 1 or H) into the condition of the norms, (B, 1 or H, W)."""
        hidden = functional.silu(self.time_mlp_in(self.time_embedding(t).to(dtype)))
        # A second silu after the last layer, as in openpi.
        return functional.silu(self.time_mlp_out(hidden))
