"""Two ALOHA arms and their cameras over ROS: the topics and messages of AlohaOperator."""

from __future__ import annotations

import time
from typing import Any, Mapping, Sequence

import numpy as np

from ..robot import DriverError
from .driver import FIRST_S, JOINT_STATE, RosDriver, joint_names
from .joint_states import JointOrder
from .sources import TopicSource, as_float32

ARM_DIM = 7
COMMAND_NAMES = tuple(f"joint{index}" for index in range(ARM_DIM))
PIPER_NAMES = (*(f"joint{index}" for index in range(1, ARM_DIM)), "gripper")
ARM_TOPICS = ("puppet_arm_left_topic", "puppet_arm_right_topic")
COMMAND_TOPICS = ("puppet_arm_left_cmd_topic", "puppet_arm_right_cmd_topic")
CAMERA_TOPICS = ("img_front_topic", "img_left_topic", "img_right_topic")
DEPTH_TOPICS = ("img_front_depth_topic", "img_left_depth_topic", "img_right_depth_topic")


class AlohaDriver(RosDriver):
    """Reads both arms and the cameras, and publishes commands to both arms.

    Args:
        spec: the robot's description: the left arm's seven joints, then the right arm's; and its
            cameras: the one in front, the left wrist's, the right wrist's.
        topics: the fields of AlohaOperator.
        transport: "ros1" or "ros2".
        use_depth_image: reads the depth topics into recordings.
        use_robot_base: reads the base's topic into recordings.
        prepare_pose: instead of the spec's.
        qos: quality of service of topics under ROS 2, see `qos.QosTable`.
        image_transport: {camera: "compressed"} reads TOPIC/compressed.
        joint_names: how one arm's joints are called in measured messages, gripper last; joint0 to
            joint6, joint1 to joint6 and gripper, or the spec's names without their side.
        command_joint_names: how they are called in commands.
        first_messages_s: how long `connect` waits for a message on every topic.
    """

    def __init__(
        self,
        *,
        spec: Mapping[str, Any],
        topics: Mapping[str, Any],
        transport: str = "ros1",
        use_depth_image: bool = False,
        use_robot_base: bool = False,
        prepare_pose: Sequence[float] | None = None,
        qos: Mapping[str, Any] | None = None,
        image_transport: Mapping[str, str] | None = None,
        joint_names: Sequence[str] | None = None,
        command_joint_names: Sequence[str] = COMMAND_NAMES,
        first_messages_s: float = FIRST_S,
    ) -> None:
        super().__init__(
            spec=spec,
            topics=topics,
            camera_fields=CAMERA_TOPICS,
            transport=transport,
            node_name="flux_aloha",
            qos=qos,
            image_transport=image_transport,
            first_messages_s=first_messages_s,
        )
        if prepare_pose is not None:
            self.spec["prepare_pose"] = [float(value) for value in np.ravel(prepare_pose)]
        self._command_names = _arm_names("command_joint_names", command_joint_names)
        self._joints = self._make_arms(joint_names)
        self._command_topics = [(self._topic(field), JOINT_STATE) for field in COMMAND_TOPICS]
        if use_depth_image:
            for name, field in zip(self._cameras, DEPTH_TOPICS):
                self._add_depth(name, self._topic(field))
        if use_robot_base:
            self._add_base(self._topic("robot_base_topic"))

    def _make_arms(self, names_in_messages: Sequence[str] | None) -> list[TopicSource]:
        names = list(self.spec["joint_names"])
        if len(names) != 2 * ARM_DIM:
            raise DriverError(f"spec.joint_names: expected {2 * ARM_DIM} joints, got {len(names)}")
        own = [name.partition("_")[2] for name in names[:ARM_DIM]]
        candidates = [COMMAND_NAMES, PIPER_NAMES, own]
        if names_in_messages is not None:
            candidates = [_arm_names("joint_names", names_in_messages)]
        return [
            TopicSource(
                topic, JOINT_STATE, JointOrder(topic, candidates).positions, self._condition
            )
            for topic in (self._topic(field) for field in ARM_TOPICS)
        ]

    def read_state(self) -> tuple[np.ndarray, float]:
        """Returns both arms' joints, (14,) float32, and the older of their two capture times.

        Raises:
            DriverError: a message of an arm cannot be used.
        """
        found = self._read_joints()
        return as_float32([values for values, _ in found]), min(time_s for _, time_s in found)

    def _publish_command(self, command: np.ndarray) -> None:
        self._connected()
        wall_s = time.time()
        for publish, values in zip(self._publish, np.split(command, 2)):
            publish(self._joint_state(self._command_names, values, wall_s))


def _arm_names(key: str, names: Sequence[str]) -> tuple[str, ...]:
    return joint_names(key, names, ARM_DIM)
