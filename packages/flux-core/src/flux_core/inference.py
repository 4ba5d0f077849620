"""The `inference` section of a config: how a trained policy meets its robot, as plain values.

Written down at training time, carried by the checkpoint and the bundle, obeyed by the runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .errors import ConfigError
from .robots import RobotSpec, robot_spec
from .transforms import (
    DenormalizePrivateAction,
    NormalizeImages,
    NormalizeStatesAndActions,
    PreparePromptWithState,
    PrivatePrompter,
    ProcessPrompts,
    RelativeActions,
    ResizeImages,
    SimpleNormalizeImages,
)

InferenceTransform = (
    RelativeActions
    | NormalizeStatesAndActions
    | PreparePromptWithState
    | PrivatePrompter
    | ProcessPrompts
    | ResizeImages
    | SimpleNormalizeImages
    | NormalizeImages
)


@dataclass(frozen=True, kw_only=True)
class PrivateInferenceDataset:
    """Cameras in the order of training, and the transforms of an observation."""

    img_keys: tuple[str, ...]
    transforms: tuple[InferenceTransform, ...]


@dataclass(frozen=True, kw_only=True)
class InferenceRunner:
    """How a policy is run: robot, task texts, chunking.

    `execute_horizon` is the number of steps executed before the next chunk.
    """

    robot: str
    task_descriptions: Mapping[str, str]
    dataset: PrivateInferenceDataset
    denormalize_action: DenormalizePrivateAction
    execute_horizon: int
    seed: int = 7

    def __post_init__(self) -> None:
        if not self.task_descriptions:
            raise ConfigError("task_descriptions: expected at least one task, got none")
        unknown = [k for k in self.dataset.img_keys if k not in self.spec.cameras]
        if unknown:
            raise ConfigError(
                f"dataset.img_keys: {self.robot} has no camera {unknown[0]!r}; "
                f"it has {', '.join(self.spec.cameras)}"
            )

    @property
    def spec(self) -> RobotSpec:
        """The robot's description."""
        return robot_spec(self.robot)


@dataclass(frozen=True, kw_only=True)
class AlohaSimInferenceRunner(InferenceRunner):
    """The simulated ALOHA."""

    robot: str = "aloha-sim"
