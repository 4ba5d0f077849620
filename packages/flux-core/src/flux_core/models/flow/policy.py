"""What a flow-matching policy is: all that training, export and the runtime know of a network.

    prefix(images, image_masks, lang_tokens, lang_masks) -> PrefixCache     once per observation
    denoise(state, x_t, t, cache) -> velocity                               once per step

The prefix never depends on the actions, so what `denoise` needs of it is computed once.
Convention: t = 1 is noise, t = 0 is data, `x_t = t * noise + (1 - t) * actions`, and the velocity
is `u_t = noise - actions`.

Shape legend: B batch, C cameras, L prompt tokens, P prefix tokens, H action steps, A action
dimensions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ...config import check_at_least
from ...errors import ConfigError
from ...norm_stats import NormType
from ...rtc import RTCTrainingConfig
from ...transforms import Rule, Transform, rules
from .checkpoints import CheckpointFamily

Size = Literal["small", "medium", "full"]


class PrefixCache(NamedTuple):
    """The parts of the prefix that the denoising steps need.

    Attributes:
        keys: one tensor per layer that reads the prefix: (B, heads, P, D), or any other (B, ...).
        values: likewise.
        pad_masks: (B, P) bool, True = real token.
    """

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    pad_masks: Tensor

    def repeat(self, times: int) -> PrefixCache:
        """Returns the cache with each sample `times` times in a row along the batch."""
        if times == 1:
            return self
        return PrefixCache(
            [key.repeat_interleave(times, dim=0) for key in self.keys],
            [value.repeat_interleave(times, dim=0) for value in self.values],
            self.pad_masks.repeat_interleave(times, dim=0),
        )


class FlowPolicy(nn.Module, ABC):
    """The base of all networks. One registry line, in `flux_core._components`, adds a network.

    Attributes:
        kind: 'pi0', for instance: what a manifest and `--model` call it.
        checkpoints: reads and writes the checkpoints of this network and its relatives.
        streams: the parts that the precision of a bundle changes. All others stay float32: they
            read or give actions and times, whose rounding errors would add up over the steps.
    """

    kind: ClassVar[str]
    checkpoints: ClassVar[CheckpointFamily]
    streams: ClassVar[tuple[str, ...]]

    @dataclass(frozen=True, kw_only=True)
    class Config(ABC):
        """The settings of every network.

        `n_action_steps` is the number of *predicted* steps (action_horizon). `loss_action_dim`
        dimensions of the actions are trained; later ones are padding. `pretrained_name_or_path` is
        a local checkpoint that training starts from, of any project (see `weights/pretrained.py`,
        also for `pretrained_adapt`). `use_lora` trains only adapters and `modules_to_save` (see
        `weights/lora.py`). `rtc_training_config` trains with random prefixes (see `flux_core.rtc`).
        `action_smoothing` smooths sampled chunks over so many steps (see `smoothing.py`); 0 is off,
        and no training step depends on it.
        """

        n_action_steps: int
        loss_action_dim: int | None = None
        num_inference_steps: int = 10
        use_lora: bool = False
        lora_rank: int = 16
        lora_alpha: int = 16
        lora_dropout: float = 0.0
        lora_target_modules: tuple[str, ...] = ()
        modules_to_save: tuple[str, ...] = ()
        rtc_training_config: RTCTrainingConfig | None = None
        action_smoothing: float = 0.0
        pretrained_name_or_path: str | None = None
        pretrained_adapt: Literal["slice", "reinit"] | None = None

        rules: ClassVar[Mapping[str, Rule]] = {
            **rules("checked", "action_window_size of the data", "n_action_steps"),
            **rules("checked", "the data's dimensions of actions", "loss_action_dim"),
            **rules("named", "at least 1. Option: flux-export --num-steps", "num_inference_steps"),
            **rules("named", "which delays the robot may use", "rtc_training_config"),
            **rules("named", "0 or more steps, in the graph", "action_smoothing"),
            **rules(
                "free",
                "decides how the network learns, not what it takes or gives",
                *("use_lora", "lora_rank", "lora_alpha", "lora_dropout", "lora_target_modules"),
                *("modules_to_save", "pretrained_name_or_path", "pretrained_adapt"),
            ),
        }
        """Field -> what must hold when training is compared with the robot (`agreement.rules`)."""
        ignored_on_resume: ClassVar[Mapping[str, str]] = {
            "pretrained_name_or_path": "the checkpoint has the weights",
            "pretrained_adapt": "the checkpoint has the weights",
            "num_inference_steps": "steps of sampling, which no training step depends on",
            "action_smoothing": "of sampled chunks, which no training step depends on",
        }
        """Fields that a resumed run need not share, and why. All others must be equal."""
        reported_on_resume: ClassVar[Mapping[str, str]] = {
            "lora_dropout": "only training drops anything",
            "rtc_training_config": "the weights are the same",
        }
        """Fields that change what is learned from here on; they are logged."""
        norm_type: ClassVar[NormType] = "mean_std"
        """How the published weights' states and actions are normalised."""
        state_in_prompt: ClassVar[bool] = False
        """Whether the published weights read the state in the prompt."""

        def __post_init__(self) -> None:
            check_settings(self)

        @abstractmethod
        def build(self) -> FlowPolicy:
            """Returns the network with initial weights, frozen as the config says."""

        @property
        @abstractmethod
        def action_dim(self) -> int:
            """Dimensions of x_t."""

        @property
        def state_dim(self) -> int | None:
            """Dimensions of the state, padding included; None if any number will do."""
            return None

        @property
        @abstractmethod
        def image_size(self) -> tuple[int, int]:
            """(height, width) of the images that the prefix takes."""

        @property
        @abstractmethod
        def vocab_size(self) -> int:
            """Number of token ids that the prefix takes."""

        @property
        @abstractmethod
        def reads_state(self) -> bool:
            """Whether `denoise` reads the state."""

        @property
        def pixel_range(self) -> tuple[float, float] | None:
            """The range of normalised pixels, if the network needs one."""
            return None

        @property
        def needs_pixel_range(self) -> bool:
            """Whether another range is an error, because the network converts from this one."""
            return False

        @property
        def embodiments(self) -> int:
            """From how many robots' weights a batch's `embodiment_ids` choose; 1: there is no
            choice."""
            return 1

        @property
        def prefix_stride(self) -> int:
            """A known prefix (real-time chunking) has a multiple of so many steps."""
            return 1

        @property
        def pretrained_from(self) -> str | None:
            """The kind of network that the pretrained weights are of, if it is not this one."""
            return None

        def frozen_parts(self) -> tuple[str, ...]:
            """Returns the names of the modules that the config freezes."""
            return ()

        @abstractmethod
        def sample_time(
            self, rows: int, *, generator: torch.Generator | None, device: torch.device
        ) -> Tensor:
            """Draws (rows,) float32 times of training."""

        @classmethod
        @abstractmethod
        def sized(cls, size: Size) -> dict[str, Any]:
            """Returns the config tree of a network of one size, for measurements."""

        @abstractmethod
        def example_transforms(self) -> Sequence[Transform]:
            """Returns a robot's transforms, with a tokenizer that needs no file, for the same."""

    config: Config

    @abstractmethod
    def prefix(
        self, images: Tensor, image_masks: Tensor, lang_tokens: Tensor, lang_masks: Tensor
    ) -> PrefixCache:
        """Encodes images and prompt.

        Args:
            images: (B, C, 3, height, width) float32, normalised as the network expects.
            image_masks: (B, C) bool, False = this camera is missing.
            lang_tokens: (B, L) int64, padded; may hold places of the images.
            lang_masks: (B, L) bool, True = real token.
        """

    @abstractmethod
    def denoise(
        self,
        state: Tensor | None,
        x_t: Tensor,
        t: Tensor,
        cache: PrefixCache,
        context: tuple[Tensor, ...] | None = None,
        embodiments: Tensor | None = None,
    ) -> Tensor:
        """Predicts the velocity `noise - actions`.

        Args:
            state: (B, state_dim) float32, normalised; unused without `reads_state`.
            x_t: (B, H, A) float32; never written to.
            t: (B, H) or (B, 1) float32, the time of each action step.
            cache: the prefix.
            context: `suffix_context` of the cache, if several steps share it.
            embodiments: (B,) int64, for networks with weights per embodiment. None: there is one.

        Returns:
            (B, H, A) float32.
        """

    @abstractmethod
    def suffix_context(self, cache: PrefixCache, horizon: int) -> tuple[Tensor, ...]:
        """Returns what all denoising steps of one observation share, such as masks."""

    def keep_embodiment(self, embodiment: int) -> None:
        """Drops the weights of all other embodiments, in place, as a robot needs only its own; the
        config then has one.

        Raises:
            ConfigError: there is no such embodiment, or only one.
        """
        raise ConfigError(
            f"embodiment_id: expected none, because {self.kind} has one embodiment, got "
            f"{embodiment}"
        )

    def load_parts(self) -> None:
        """Loads the weights that the configs of parts name, at the start of a new training."""

    @property
    @abstractmethod
    def num_cached_layers(self) -> int:
        """The number of keys, and of values, in a `PrefixCache`."""

    @property
    @abstractmethod
    def layers(self) -> list[nn.Module]:
        """The transformer layers, which are sharded, recomputed and compiled one by one."""

    def without_effect(self) -> list[str]:
        """Returns the names of the parameters that affect no action, so that none can train."""
        return []

    @abstractmethod
    def tabulate(self, num_inference_steps: int, num_prefix_tokens: int) -> None:
        """Replaces, for export, what depends only on times or positions by tables, in place.

        Args:
            num_inference_steps: N; the only times are k / N.
            num_prefix_tokens: number of prefix tokens with all cameras and the longest prompt.
        """


def check_settings(config: FlowPolicy.Config) -> None:
    """Refuses settings that contradict each other."""
    horizon = config.n_action_steps
    check_at_least(
        1,
        config,
        *("num_inference_steps", "n_action_steps", "loss_action_dim", "lora_rank", "lora_alpha"),
    )
    if not 0.0 <= config.action_smoothing <= horizon:
        raise ConfigError(
            f"action_smoothing: expected 0 to {horizon} steps (n_action_steps), got "
            f"{config.action_smoothing}"
        )
    if not 0.0 <= config.lora_dropout < 1.0:
        raise ConfigError(f"lora_dropout: expected 0 <= share < 1, got {config.lora_dropout}")
    frozen = [name for name in config.modules_to_save if name in config.frozen_parts()]
    if frozen:
        raise ConfigError(
            f"modules_to_save: {frozen[0]!r} would be trained, but a freeze flag freezes it. "
            "Remove one of them"
        )
    rtc = config.rtc_training_config
    if rtc is not None and rtc.max_delay > horizon:
        raise ConfigError(
            f"rtc_training_config.max_delay: expected at most {horizon} (n_action_steps), got "
            f"{rtc.max_delay}"
        )
    if config.loss_action_dim is not None and config.loss_action_dim > config.action_dim:
        raise ConfigError(
            f"loss_action_dim: expected at most {config.action_dim} (the actions' dimensions), got "
            f"{config.loss_action_dim}"
        )


def freeze_parts(model: FlowPolicy) -> None:
    """Turns off the gradient of every part the config freezes.

    Raises:
        ConfigError: a part has no parameters to freeze.
    """
    for name in model.config.frozen_parts():
        parameters = list(model.get_submodule(name).parameters())
        if not parameters:
            raise ConfigError(f"freeze_{name}: {name} has no parameters, so nothing would freeze")
        for parameter in parameters:
            parameter.requires_grad_(False)
