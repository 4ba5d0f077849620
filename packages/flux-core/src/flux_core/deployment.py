"""The `inference` section of a config: how a trained policy meets its robot, as plain values.

Written down at training time, carried by the checkpoint and the bundle, obeyed by the runtime.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from .errors import ConfigError
from .robots.operators import AlohaOperator, UROperator
from .robots.spec import RobotSpec, robot_spec
from .rtc import RTCConfig
from .transforms import (
    AlohaToPi,
    DenormalizeActions,
    NormalizeImages,
    NormalizeStatesAndActions,
    PadKeyToDim,
    PreparePromptWithState,
    ProcessPrompts,
    RelativeActions,
    ResizeImages,
    ResizeImagesWithPad,
    SimpleNormalizeImages,
    TaskPrompter,
    check_order,
)
from .transforms.aloha import DIMS as ALOHA_DIMS

logger = logging.getLogger("flux.inference")

InferenceTransform = (
    AlohaToPi
    | RelativeActions
    | NormalizeStatesAndActions
    | PadKeyToDim
    | TaskPrompter
    | PreparePromptWithState
    | ProcessPrompts
    | ResizeImages
    | ResizeImagesWithPad
    | SimpleNormalizeImages
    | NormalizeImages
)


@dataclass(frozen=True, kw_only=True)
class ObservationTransforms:
    """Cameras in the order of training, and the transforms of an observation."""

    img_keys: tuple[str, ...]
    transforms: tuple[InferenceTransform, ...]

    def __post_init__(self) -> None:
        check_order(self.transforms, "transforms")


@dataclass(frozen=True, kw_only=True)
class InferenceRunner:
    """How a policy is run: robot, task texts, chunking.

    Of each predicted chunk the first `action_chunk` steps count (None: all), and
    `execution_horizon` of them are executed before the next chunk (None: all that count).
    `statistic_name` is the group of datasets whose statistics the robot uses, where there are
    several.
    """

    robot: str
    task_descriptions: Mapping[str, str]
    dataset: ObservationTransforms
    denormalize_action: DenormalizeActions
    action_chunk: int | None = None
    execution_horizon: int | None = None
    async_execution: bool = False
    rtc_config: RTCConfig | None = None
    statistic_name: str | None = None
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
        adapts = any(isinstance(t, AlohaToPi) for t in self.dataset.transforms)
        if adapts and self.spec.action_dim != ALOHA_DIMS:
            raise ConfigError(
                f"dataset.transforms: AlohaToPi expected a robot of {ALOHA_DIMS} joints (two Aloha "
                f"arms), got {self.robot} of {self.spec.action_dim}"
            )
        is_relative = any(isinstance(t, RelativeActions) for t in self.dataset.transforms)
        if is_relative and self.spec.is_commanded_by_differences:
            raise ConfigError(
                f"dataset.transforms: RelativeActions expected a robot whose commands are states, "
                f"got {self.robot}, whose commands are differences already. Leave it out"
            )

    @property
    def spec(self) -> RobotSpec:
        """The robot's description."""
        return robot_spec(self.robot)

    def statistics_group(self, groups: Collection[str]) -> str:
        """Which of the groups of statistics is this robot's.

        `statistic_name`, or the group called like the robot, or the only one, or the only one whose
        name begins with the robot's ('aloha_4090').

        Raises:
            ConfigError: none, or several that it could be.
        """
        if self.statistic_name is not None:
            fitting = [name for name in groups if name == self.statistic_name]
        elif self.robot in groups or len(groups) == 1:
            fitting = [self.robot] if self.robot in groups else list(groups)
        else:
            fitting = [name for name in groups if name.startswith(self.robot)]
        if len(fitting) != 1:
            raise ConfigError(
                f"inference.statistic_name: expected one of {', '.join(sorted(groups))} for robot "
                f"{self.robot!r}, got {self.statistic_name!r}"
            )
        return fitting[0]

    def steps_executed(self, action_horizon: int) -> int:
        """Steps executed of a chunk of `action_horizon` before the next one.

        Raises:
            ConfigError: more than there are.
        """
        available = action_horizon
        for name in ("action_chunk", "execution_horizon"):
            steps = getattr(self, name)
            if steps is None:
                continue
            if not 1 <= steps <= available:
                raise ConfigError(
                    f"inference.{name}: expected 1 to {available} (model.n_action_steps or "
                    f"inference.action_chunk), got {steps}"
                )
            available = steps
        return available


@dataclass(frozen=True, kw_only=True)
class AlohaSimInferenceRunner(InferenceRunner):
    """The simulated ALOHA."""

    robot: str = "aloha-sim"


@dataclass(frozen=True, kw_only=True)
class LiberoInferenceRunner(InferenceRunner):
    """The Panda of the LIBERO benchmark, in simulation."""

    robot: str = "libero"


@dataclass(frozen=True, kw_only=True)
class AlohaInferenceRunner(InferenceRunner):
    """Two real ALOHA arms over ROS."""

    robot: str = "aloha"
    operator: AlohaOperator = field(default_factory=AlohaOperator)


@dataclass(frozen=True, kw_only=True)
class URInferenceRunner(InferenceRunner):
    """One real UR3 over ROS."""

    robot: str = "ur3"
    operator: UROperator = field(default_factory=UROperator)

    def __post_init__(self) -> None:
        if "cam_left_wrist" in self.dataset.img_keys:
            # FluxVLA's name for it on the robot, though its datasets say cam_wrist.
            logger.warning("inference.dataset.img_keys: 'cam_left_wrist' is now 'cam_wrist'")
            keys = tuple(k.replace("cam_left_wrist", "cam_wrist") for k in self.dataset.img_keys)
            object.__setattr__(self, "dataset", replace(self.dataset, img_keys=keys))
        super().__post_init__()


InferenceSections = InferenceRunner | Mapping[str, InferenceRunner]
"""One robot's section, or several by any name."""


def inference_sections(section: InferenceSections | None) -> dict[str, InferenceRunner]:
    """A config's bound `inference` as robot -> how it is run: one runner, or a dict of several.

    Raises:
        ConfigError: two runners for the same robot.
    """
    if section is None:
        return {}
    runners = list(section.values()) if isinstance(section, Mapping) else [section]
    by_robot = {runner.robot: runner for runner in runners}
    if len(by_robot) != len(runners):
        raise ConfigError(
            f"inference: expected one section a robot, got {', '.join(r.robot for r in runners)}"
        )
    return by_robot
