"""The ROS topics of a robot's cameras, joints and commands; the defaults are the tutorial's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AlohaOperator:
    """The topics of two ALOHA arms and their cameras; depth is read only if `use_depth_image`."""

    img_front_topic: str = "/camera_h/color/image_raw"
    img_left_topic: str = "/camera_l/color/image_raw"
    img_right_topic: str = "/camera_r/color/image_raw"
    img_front_depth_topic: str = "/camera_h/depth/image_raw"
    img_left_depth_topic: str = "/camera_l/depth/image_raw"
    img_right_depth_topic: str = "/camera_r/depth/image_raw"
    puppet_arm_left_cmd_topic: str = "/master/joint_left"
    puppet_arm_right_cmd_topic: str = "/master/joint_right"
    puppet_arm_left_topic: str = "/puppet/joint_left"
    puppet_arm_right_topic: str = "/puppet/joint_right"
    robot_base_topic: str = "/odom_raw"
    robot_base_cmd_topic: str = "/cmd_vel"
    use_depth_image: bool = False
    use_robot_base: bool = False


@dataclass(frozen=True, kw_only=True)
class UROperator:
    """The topics of one UR arm with a gripper."""

    img_front_topic: str = "/front_camera/color/image_raw"
    img_left_topic: str = "/wrist_camera/color/image_raw"
    puppet_arm_left_topic: str = "/joint_states"
    puppet_gripper_left_topic: str = "/gripper/position"
    puppet_ee_pose_left_topic: str = "/arm/tcp_pose"
    puppet_arm_left_cmd_topic: str = "/cmd/servoj"
    puppet_gripper_left_cmd_topic: str = "/cmd/gripper"
    use_depth_image: bool = False
