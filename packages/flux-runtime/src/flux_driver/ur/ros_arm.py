"""A UR arm, its gripper and its cameras over ROS: the topics and messages of UROperator."""

from __future__ import annotations

import time
from typing import Any, Mapping, Sequence

import numpy as np

from ..robot import DriverError
from ..ros.driver import FIRST_S, JOINT_STATE, RosDriver, joint_names
from ..ros.joint_states import JointOrder
from ..ros.sources import TopicSource, as_float32

ARM_DIM = 6
ARM_TOPIC, ARM_COMMAND_TOPIC = "puppet_arm_left_topic", "puppet_arm_left_cmd_topic"
GRIPPER_TOPIC, GRIPPER_COMMAND_TOPIC = "puppet_gripper_left_topic", "puppet_gripper_left_cmd_topic"
CAMERA_TOPICS = ("img_front_topic", "img_left_topic")
URDF_SUFFIX = "_joint"
GRIPPER_S = 0.5
"""How much older than the arm's state the gripper's may be; grippers report at 10 Hz or more."""


class UrRosDriver(RosDriver):
    """Reads the arm, its gripper and the cameras, and publishes commands.

    Args:
        spec: the robot's description: six joints and a gripper; and its cameras: the one in front,
            the one at the wrist.
        topics: the fields of UROperator.
        transport: "ros1" or "ros2".
        use_depth_image: reads `depth_topics` into recordings.
        depth_topics: {camera: topic}; UROperator itself names none.
        qos: quality of service of topics under ROS 2, see `qos.QosTable`.
        image_transport: {camera: "compressed"} reads TOPIC/compressed.
        joint_names: how the joints are called in measured messages; those of UR's URDF, or the
            spec's. The order of the messages does not matter.
        command_joint_names: how they are called in commands; those of UR's URDF.
        gripper_state_kind: of the gripper's messages, whose number is `data`.
        gripper_command_kind: of the gripper's commands, the same.
        gripper_open: the number that means open; the spec's upper limit unless stated.
        speed_scaling_topic: of std_msgs/Float64, the share or the percentage of its speed at which
            the arm moves; of ur_robot_driver's speed_scaling_state_controller.
        first_messages_s: how long `connect` waits for a message on every topic.
    """

    def __init__(
        self,
        *,
        spec: Mapping[str, Any],
        topics: Mapping[str, Any],
        transport: str = "ros1",
        use_depth_image: bool = False,
        depth_topics: Mapping[str, str] | None = None,
        qos: Mapping[str, Any] | None = None,
        image_transport: Mapping[str, str] | None = None,
        joint_names: Sequence[str] | None = None,
        command_joint_names: Sequence[str] | None = None,
        gripper_state_kind: str = "robotiq/StampedFloat32",
        gripper_command_kind: str = "std_msgs/Float32",
        gripper_open: float | None = None,
        speed_scaling_topic: str | None = None,
        first_messages_s: float = FIRST_S,
    ) -> None:
        super().__init__(
            spec=spec,
            topics=topics,
            camera_fields=CAMERA_TOPICS,
            transport=transport,
            node_name="flux_ur",
            qos=qos,
            image_transport=image_transport,
            first_messages_s=first_messages_s,
        )
        self.spec["holds_without_power"] = False  # no topic removes the power
        own = list(self.spec["joint_names"])
        if len(own) != ARM_DIM + 1:
            raise DriverError(f"spec.joint_names: expected six and a gripper, got {len(own)}")
        of_urdf = [name + URDF_SUFFIX for name in own[:ARM_DIM]]
        given = command_joint_names or of_urdf
        self._command_names = _arm_names("command_joint_names", given)
        candidates = [of_urdf, own[:ARM_DIM]]
        if joint_names is not None:
            candidates = [list(_arm_names("joint_names", joint_names))]
        self._scale = _scale_of(self.spec, gripper_open)
        self._gripper_command_kind = gripper_command_kind
        self._joints = self._make_joints(candidates, gripper_state_kind)
        self._command_topics = [
            (self._topic(ARM_COMMAND_TOPIC), JOINT_STATE),
            (self._topic(GRIPPER_COMMAND_TOPIC), gripper_command_kind),
        ]
        if use_depth_image and not depth_topics:
            raise DriverError("use_depth_image: expected depth_topics, {camera: topic}, got none")
        for camera, topic in (depth_topics or {}).items() if use_depth_image else ():
            self._add_depth(camera, topic)
        self._scaling: TopicSource | None = None
        if speed_scaling_topic is not None:
            self._scaling = TopicSource(
                speed_scaling_topic, "std_msgs/Float64", _share, self._condition
            )
        self._state: tuple[np.ndarray, float] | None = None

    def _make_joints(
        self, candidates: Sequence[Sequence[str]], gripper_kind: str
    ) -> list[TopicSource]:
        arm, gripper = self._topic(ARM_TOPIC), self._topic(GRIPPER_TOPIC)
        order = JointOrder(arm, candidates)
        return [
            TopicSource(arm, JOINT_STATE, order.positions, self._condition),
            TopicSource(gripper, gripper_kind, self._opening, self._condition),
        ]

    def _opening(self, message: Any) -> np.ndarray:
        return np.array([float(message.data) / self._scale])

    def _sources(self) -> list[TopicSource]:
        return [*super()._sources(), *([] if self._scaling is None else [self._scaling])]

    def read_state(self) -> tuple[np.ndarray, float]:
        """Returns the arm's joints and the gripper's opening, (7,) float32, and the arm's time.

        A state whose gripper has been silent for too long is not new: the one before is returned.

        Raises:
            DriverError: a message cannot be used.
        """
        (arm, arm_s), (gripper, gripper_s) = self._read_joints()
        if self._state is None or arm_s - gripper_s < GRIPPER_S:
            self._state = as_float32([arm, gripper]), arm_s
        else:
            topic = self._joints[1].topic
            line = f"{topic}: expected a message at least every {GRIPPER_S:g} s, got none"
            self._warnings.add(f"silent {topic}", line)
        return self._state

    def _awaited_joints(self) -> Sequence[TopicSource]:
        """Returns the arm without its gripper, which may report less often."""
        return self._joints[:1]

    def speed_scaling(self) -> float:
        """Returns the share of its commanded speed at which the arm moves; 1 without a topic."""
        if self._scaling is None:
            return 1.0
        self._scaling.update()
        return 1.0 if self._scaling.newest is None else float(self._scaling.newest[0])

    def _publish_command(self, command: np.ndarray) -> None:
        connection = self._connected()
        arm, gripper = self._publish
        arm(self._joint_state(self._command_names, command[:ARM_DIM], time.time()))
        message = connection.message(self._gripper_command_kind)
        message.data = float(command[ARM_DIM]) * self._scale
        gripper(message)


def _arm_names(key: str, names: Sequence[str]) -> tuple[str, ...]:
    return joint_names(key, names, ARM_DIM)


def _scale_of(spec: Mapping[str, Any], gripper_open: float | None) -> float:
    """Returns what an opening is multiplied by in messages."""
    if gripper_open is None:
        return 1.0
    if isinstance(gripper_open, bool) or not gripper_open > 0:
        raise DriverError(f"gripper_open: expected a number above 0, got {gripper_open!r}")
    return float(gripper_open) / float(spec["upper"][ARM_DIM])


def _share(message: Any) -> float:
    """Returns a share; ur_robot_driver states a percentage."""
    value = float(message.data)
    return min(max(value / 100 if value > 1 else value, 0.0), 1.0)
