"""`aloha`: the real two-armed ALOHA over ROS 1."""

from __future__ import annotations

from .ros import RosRobot


class AlohaRobot(RosRobot):
    """Two ViperX arms with the tutorial's three cameras."""

    name = "aloha"
    documentation = "ROS 1 (rospy, sensor_msgs) and the Interbotix arm drivers"
