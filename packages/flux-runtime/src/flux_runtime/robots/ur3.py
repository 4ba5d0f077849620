"""`ur3`: a real Universal Robots UR3 over ROS 1."""

from __future__ import annotations

from .ros import RosRobot


class Ur3Robot(RosRobot):
    """One UR3 with a gripper and two cameras."""

    name = "ur3"
    documentation = "ROS 1 (rospy, sensor_msgs) and ur_robot_driver"
