"""The robots that flux has a driver for, and what their drivers need: by name, nothing imported."""

from __future__ import annotations

from dataclasses import dataclass

from flux_core.robots import AlohaOperator, UROperator

SIMULATED = {"aloha-sim": "flux_runtime.robots.aloha_sim:AlohaSimRobot"}
"""Robot -> the class of its driver, which takes no arguments."""
LEROBOT = "lerobot:"
DATASET = "dataset:"
PREFIXES = (LEROBOT, DATASET)
"""What stands before the TYPE of a robot of LeRobot's, and before the DIR of a dataset."""
LEROBOT_TARGET = "flux_driver.lerobot.driver:LeRobotDriver"
DATASET_TARGET = "flux_data.dataset_robot:DatasetRobot"
FORMS = ("lerobot:TYPE", "dataset:DIR")


@dataclass(frozen=True, kw_only=True)
class Transport:
    """A way to talk to a robot.

    Attributes:
        target: the class of the driver, as MODULE:CLASS.
        module: what the driver's Python must have.
        remedy: how to get that.
        operator: names the ROS topics; None without ROS.
        system_python: whether Linux distributions install the module for their own Python.
    """

    target: str
    module: str
    remedy: str
    operator: type[AlohaOperator] | type[UROperator] | None = None
    system_python: bool = False


def _over_ros(
    target: str, operator: type[AlohaOperator] | type[UROperator]
) -> dict[str, Transport]:
    return {
        "ros1": Transport(
            target=target,
            module="rospy",
            remedy="Install ROS 1 (Debian and Ubuntu: apt install python3-rospy "
            "python3-sensor-msgs python3-nav-msgs)",
            operator=operator,
            system_python=True,
        ),
        "ros2": Transport(
            target=target,
            module="rclpy",
            remedy="Install ROS 2 and source its setup.bash",
            operator=operator,
            system_python=True,
        ),
    }


_ALOHA = _over_ros("flux_driver.ros.aloha:AlohaDriver", AlohaOperator)
_UR = {
    **_over_ros("flux_driver.ur.ros_arm:UrRosDriver", UROperator),
    "rtde": Transport(
        target="flux_driver.ur.rtde:UrRtdeDriver",
        module="rtde_control",
        remedy="Install it with: pip install ur_rtde",
    ),
}
REAL: dict[str, dict[str, Transport]] = {
    "aloha-agilex": _ALOHA,
    "aloha-viperx": _ALOHA,
    "ur3": _UR,
    "ur5e": _UR,
    "ur10e": _UR,
}
"""Real robot -> its transports, the default one first."""


LEROBOT_DRIVER = Transport(
    target=LEROBOT_TARGET,
    module="lerobot",
    remedy="Install it with: pip install lerobot",
)
SHIPPED_ROBOTS = (*SIMULATED, *REAL)
"""The names of the robots that flux has a driver for."""


def has_topics(robot: str) -> bool:
    """Whether a robot's driver has ROS topics, which `--topic` may change."""
    return any(transport.operator for transport in REAL.get(robot, {}).values())


def is_recording(name: str) -> bool:
    """Whether a robot's name stands for the episodes of a dataset, which no command changes."""
    return name.startswith(DATASET)
