"""One's own robots: two Aloha arms, a UR3, or both in one run.

Actions are the next states, as the tutorial's recordings have none of their own. Arm joints are
relative to the state that a chunk starts from, grippers are not: what openpi's base checkpoints
were trained with. In a run of both robots a UR3 is padded to Aloha's dimensions and cameras, and
what is padding is masked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import pretrained
from .pretrained import Policy, Section

ACTION_HORIZON = 32


@dataclass(frozen=True, kw_only=True)
class RobotRecipe:
    """One kind of robot.

    Attributes:
        num_arms: each has six joints and a gripper.
        cameras: base, left wrist, right wrist.
        runner: its inference runner.
        operator: where its cameras and joints are found.
    """

    num_arms: int
    cameras: tuple[str, ...]
    runner: str
    operator: Mapping[str, Any]

    @property
    def dim(self) -> int:
        """Dimensions of a state, and of an action."""
        return 7 * self.num_arms

    def units(self, *, relative: bool, adapt_to_pi: bool, width: int) -> list[Section]:
        """What comes before the normalisation, the same in training and on the robot."""
        units: list[Section] = [dict(type="AlohaToPi")] if adapt_to_pi else []
        if relative:
            units.append(dict(type="RelativeActions", mask=[*[True] * 6, False] * self.num_arms))
        if self.dim < width:
            units.append(dict(type="PadKeyToDim", keys=["actions", "states"], dim=width))
        return units


ROBOTS = {
    "aloha": RobotRecipe(
        num_arms=2,
        cameras=("cam_high", "cam_left_wrist", "cam_right_wrist"),
        runner="AlohaInferenceRunner",
        # The topics of the tutorial's robot.
        operator=dict(
            type="AlohaOperator",
            img_front_topic="/camera_f/color/image_raw",
            img_left_topic="/camera_l/color/image_raw",
            img_right_topic="/camera_r/color/image_raw",
            img_front_depth_topic="/camera_f/depth/image_raw",
            img_left_depth_topic="/camera_l/depth/image_raw",
            img_right_depth_topic="/camera_r/depth/image_raw",
            puppet_arm_left_cmd_topic="/master/joint_left",
            puppet_arm_right_cmd_topic="/master/joint_right",
            puppet_arm_left_topic="/puppet/joint_left",
            puppet_arm_right_topic="/puppet/joint_right",
            robot_base_topic="/odom_raw",
            robot_base_cmd_topic="/cmd_vel",
        ),
    ),
    "ur3": RobotRecipe(
        num_arms=1,
        cameras=("cam_high", "cam_wrist"),
        runner="URInferenceRunner",
        operator=dict(type="UROperator"),
    ),
}


def robot_data(
    policy: Policy,
    *,
    aloha: Sequence[str] = (),
    ur3: Sequence[str] = (),
    tokenizer_path: str,
    relative: bool = True,
    adapt_to_pi: bool = False,
) -> Section:
    """Batches from the recordings of one robot or both, each with statistics of its own.

    Args:
        policy: whose prompt and normalisation.
        aloha: LeRobot directories of two Aloha arms.
        ur3: LeRobot directories of a UR3 with a gripper.
        tokenizer_path: a file or folder with PaliGemma's tokenizer.
        relative: whether arm joints are relative to the chunk's start.
        adapt_to_pi: turns ViperX arms (Trossen's ALOHA) into pi's joint signs and gripper angles.
    """
    roots = {name: list(paths) for name, paths in (("aloha", aloha), ("ur3", ur3)) if paths}
    width, num_cameras = _largest(roots)
    groups = {
        name: pretrained.dataset(
            policy,
            data_root_path=paths,
            tokenizer_path=tokenizer_path,
            cameras=ROBOTS[name].cameras,
            num_padding_cameras=num_cameras - len(ROBOTS[name].cameras),
            action_horizon=ACTION_HORIZON,
            units=_units(name, relative, adapt_to_pi, width),
        )
        for name, paths in roots.items()
    }
    return pretrained.dataloader(
        groups,
        name_mappings={"observation.state": ("proprio", "action")},
        dim=width if len(groups) > 1 else None,
    )


def robot_inference(
    policy: Policy,
    *,
    aloha: Mapping[str, str] | None = None,
    ur3: Mapping[str, str] | None = None,
    relative: bool = True,
    adapt_to_pi: bool = False,
) -> Section:
    """How the robots of `robot_data` run the policy: their tasks, by the key that picks one.

    The other arguments are those of `robot_data`, and must be the same. One robot's section, or a
    dict of several.
    """
    tasks = {name: texts for name, texts in (("aloha", aloha), ("ur3", ur3)) if texts}
    width, _ = _largest(tasks)
    sections = {
        name: pretrained.inference_runner(
            policy,
            type=ROBOTS[name].runner,
            task_descriptions=texts,
            cameras=ROBOTS[name].cameras,
            units=_units(name, relative, adapt_to_pi, width),
            operator=dict(ROBOTS[name].operator),
        )
        for name, texts in tasks.items()
    }
    return sections if len(sections) > 1 else next(iter(sections.values()))


def _units(name: str, relative: bool, adapt_to_pi: bool, width: int) -> list[Section]:
    is_adapted = adapt_to_pi and name == "aloha"
    return ROBOTS[name].units(relative=relative, adapt_to_pi=is_adapted, width=width)


def _largest(names: Mapping[str, object]) -> tuple[int, int]:
    """Dimensions and cameras of the largest robot in the run."""
    if not names:
        raise ValueError(f"expected at least one robot of {', '.join(ROBOTS)}, got none")
    robots = [ROBOTS[name] for name in names]
    return max(robot.dim for robot in robots), max(len(robot.cameras) for robot in robots)
