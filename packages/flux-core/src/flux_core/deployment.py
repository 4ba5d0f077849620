"""The `inference` section of a config: how a robot runs a trained policy, as plain values.

It is written at training time, stored in the checkpoint and the bundle, and used by the runtime.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from .config import check_at_least
from .errors import ConfigError, RobotError
from .robots.embodiments import embodiment_number
from .robots.families import family_of
from .robots.lookup import robot_spec
from .robots.operators import AlohaOperator, UROperator
from .robots.spec import RobotSpec
from .rtc import RTCConfig
from .transforms import DenormalizeActions, Pipeline, Transform

logger = logging.getLogger("flux.inference")


@dataclass(frozen=True, kw_only=True)
class ObservationTransforms:
    """The cameras, in the order of training, and the transforms of an observation.

    `trained_cameras` are all cameras of training, in its order, if the robot lacks some of them;
    `flux-export --cameras` writes it. `embodiment_id` chooses the robot's weights in a network that
    has several (see `flux_core.robots.EMBODIMENTS`); None: those that its data were trained with.
    """

    img_keys: tuple[str, ...]
    transforms: tuple[Transform, ...]
    trained_cameras: tuple[str, ...] = ()
    embodiment_id: int | str | None = None

    @property
    def embodiment(self) -> int | None:
        """The number of the embodiment; None for that of its data."""
        return None if self.embodiment_id is None else embodiment_number(self.embodiment_id)

    def __post_init__(self) -> None:
        _check_cameras(self)
        if self.embodiment_id is not None:
            embodiment_number(self.embodiment_id)
        pipeline = Pipeline(self.transforms)
        pipeline.check_on_robot()
        pipeline.check()


def _check_cameras(dataset: ObservationTransforms) -> None:
    """Refuses no camera, a camera twice, and cameras that are not in the order of training."""
    names, everything = dataset.img_keys, dataset.trained_cameras
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"img_keys: expected at least one camera, each once, got {names}")
    if everything and names != tuple(name for name in everything if name in names):
        raise ConfigError(
            f"img_keys: expected some of trained_cameras in their order, {everything}, got {names}"
        )
    if len(set(everything)) < len(everything):
        raise ConfigError(f"trained_cameras: expected each camera once, got {everything}")


@dataclass(frozen=True, kw_only=True)
class InferenceRunner:
    """How a policy is run: robot, task texts, chunking.

    `robot` is a name or a description; a name is replaced by its description, so that checkpoints
    and bundles contain the description.

    The first `action_chunk` steps of each predicted chunk are used (None: all), and
    `execution_horizon` of those are executed before the next chunk (None: all of those).
    `statistic_name` is the group of datasets whose statistics the robot uses, if there are several
    groups. `allow_rate_change` lets the robot run at another rate than the recordings, so that
    movements become faster or slower.
    """

    robot: str | RobotSpec
    task_descriptions: Mapping[str, str]
    dataset: ObservationTransforms
    denormalize_action: DenormalizeActions
    action_chunk: int | None = None
    execution_horizon: int | None = None
    async_execution: bool = False
    rtc_config: RTCConfig | None = None
    statistic_name: str | None = None
    allow_rate_change: bool = False
    seed: int = 7

    def __post_init__(self) -> None:
        if isinstance(self.robot, str):
            try:
                object.__setattr__(self, "robot", robot_spec(self.robot))
            except RobotError as error:
                raise ConfigError(f"robot: {error}") from error
        check_at_least(0, self, "seed")
        if not self.task_descriptions:
            raise ConfigError("task_descriptions: expected at least one task, got none")
        unknown = [k for k in self.dataset.img_keys if k not in self.spec.cameras]
        if unknown:
            raise ConfigError(
                f"dataset.img_keys: expected cameras of {self.spec.name} "
                f"({', '.join(self.spec.cameras)}), got {unknown[0]!r}"
            )
        Pipeline(self.dataset.transforms, where="dataset.transforms").check_robot(self.spec)

    @property
    def pipeline(self) -> Pipeline:
        """The transforms of an observation, and the inverse from actions to the robot's units."""
        return Pipeline(
            self.dataset.transforms,
            denormalize=self.denormalize_action,
            where="inference.dataset.transforms",
        )

    def with_pipeline(self, pipeline: Pipeline) -> Self:
        """Returns a copy with other transforms."""
        return replace(self, dataset=replace(self.dataset, transforms=pipeline.transforms))

    @property
    def spec(self) -> RobotSpec:
        """The robot's description."""
        assert isinstance(self.robot, RobotSpec), "__post_init__ looks names up"
        return self.robot

    def statistics_group(self, groups: Collection[str], path: str = "inference") -> str:
        """Returns the group whose statistics this robot uses.

        It is `statistic_name` if given; else the group with the robot's name; else the only group;
        else the only group whose name begins with the robot's name ('aloha_4090'); else the same
        with the name of the robot's family.

        Args:
            groups: the names of all groups.
            path: the section's dotted path, for messages.

        Raises:
            ConfigError: no group fits, or several do.
        """
        robot = self.spec.name
        if self.statistic_name is not None:
            fitting = [name for name in groups if name == self.statistic_name]
        elif robot in groups or len(groups) == 1:
            fitting = [robot] if robot in groups else list(groups)
        else:
            fitting = _groups_called(robot, groups)
            if not fitting and (family := family_of(robot)):
                fitting = [family] if family in groups else _groups_called(family, groups)
        if len(fitting) != 1:
            raise ConfigError(
                f"{path}.statistic_name: expected one of {', '.join(sorted(groups))} for robot "
                f"{robot!r}, got {self.statistic_name!r}"
            )
        return fitting[0]

    def steps_executed(self, action_horizon: int, path: str = "inference") -> int:
        """Returns how many steps of a chunk of `action_horizon` are executed before the next one.

        Args:
            action_horizon: the steps of a predicted chunk.
            path: the section's dotted path, for messages.

        Raises:
            ConfigError: the section asks for more steps than a chunk has.
        """
        available = action_horizon
        for name in ("action_chunk", "execution_horizon"):
            steps = getattr(self, name)
            if steps is None:
                continue
            if not 1 <= steps <= available:
                raise ConfigError(
                    f"{path}.{name}: expected 1 to {available} (model.n_action_steps or "
                    f"{path}.action_chunk), got {steps}"
                )
            available = steps
        return available


def _groups_called(robot: str, groups: Collection[str]) -> list[str]:
    return [name for name in groups if name.startswith(robot)]


@dataclass(frozen=True, kw_only=True)
class AlohaSimInferenceRunner(InferenceRunner):
    """The simulated ALOHA."""

    robot: str | RobotSpec = "aloha-sim"


@dataclass(frozen=True, kw_only=True)
class LiberoInferenceRunner(InferenceRunner):
    """The Panda of the LIBERO benchmark, in simulation."""

    robot: str | RobotSpec = "libero"


@dataclass(frozen=True, kw_only=True)
class AlohaInferenceRunner(InferenceRunner):
    """Two real ALOHA arms over ROS.

    `robot` should name the variant, such as `aloha-agilex`: `aloha` does not say which arms these
    are, so the run must. A gripper command below `gripper_threshold` becomes `gripper_closed`, so
    that the gripper closes firmly. None is the variant's own: see `GripperClosing.of`. A threshold
    below the robot's smallest gripper command has no effect. `prepare_pose` is where the robot
    waits before an episode, of both arms or in a part for each; empty for the robot's own.
    """

    robot: str | RobotSpec = "aloha"
    operator: AlohaOperator = field(default_factory=AlohaOperator)
    gripper_threshold: float | None = None
    gripper_closed: float | None = None
    prepare_pose: tuple[float, ...] | tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        for name in ("gripper_threshold", "gripper_closed"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ConfigError(f"{name}: expected a finite number or None, got {value!r}")
        super().__post_init__()
        if self.prepare_pose:
            parts = [part if isinstance(part, tuple) else (part,) for part in self.prepare_pose]
            pose = tuple(float(value) for part in parts for value in part)
            try:
                robot = replace(self.spec, prepare_pose=pose)
            except RobotError as error:
                raise ConfigError(f"prepare_pose: {error}") from error
            object.__setattr__(self, "robot", robot)
            object.__setattr__(self, "prepare_pose", ())  # the robot's description carries it


@dataclass(frozen=True, kw_only=True)
class URInferenceRunner(InferenceRunner):
    """One real arm of Universal Robots over ROS: a UR3, or the robot that `robot` names."""

    robot: str | RobotSpec = "ur3"
    operator: UROperator = field(default_factory=UROperator)

    def __post_init__(self) -> None:
        if "cam_left_wrist" in self.dataset.img_keys:
            # FluxVLA calls the camera cam_left_wrist on the robot, but cam_wrist in its datasets.
            logger.warning("inference.dataset.img_keys: 'cam_left_wrist' is now 'cam_wrist'")
            fields = {
                name: tuple(camera.replace("cam_left_wrist", "cam_wrist") for camera in cameras)
                for name in ("img_keys", "trained_cameras")
                if (cameras := getattr(self.dataset, name))
            }
            object.__setattr__(self, "dataset", replace(self.dataset, **fields))
        super().__post_init__()


InferenceSections = InferenceRunner | Mapping[str, InferenceRunner]
"""One robot's section, or a mapping of several under any keys."""


def section_of_robot(sections: Mapping[str, InferenceRunner], robot: str) -> InferenceRunner | None:
    """Returns the section of a robot, or of the only variant if `robot` is a family; else None.

    Args:
        sections: by the robot's name.
        robot: a name.
    """
    if robot in sections:
        return sections[robot]
    found = [section for name, section in sections.items() if family_of(name) == robot]
    return found[0] if len(found) == 1 else None


def inference_sections(section: InferenceSections | None) -> dict[str, InferenceRunner]:
    """Returns the runners in a config's bound `inference` section, by the robot's name.

    Raises:
        ConfigError: two runners for the same robot.
    """
    if section is None:
        return {}
    runners = list(section.values()) if isinstance(section, Mapping) else [section]
    by_robot = {runner.spec.name: runner for runner in runners}
    if len(by_robot) != len(runners):
        raise ConfigError(
            f"inference: expected one section per robot, got "
            f"{', '.join(runner.spec.name for runner in runners)}"
        )
    return by_robot
