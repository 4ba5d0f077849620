#!/usr/bin/env bash
# Makes the environment that the tests with ROS 2 run in: rclpy and its messages from PyPI.
#
#   bash scripts/environments/ros2.sh    .venv-ros2, about 450 MB
#
# Returns at once if nothing has changed. Exits with 75 if the package server does not answer. These
# wheels are not made by ROS's own developers: use them for tests only. A robot's computer gets ROS 2
# from its distribution.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
. scripts/pip_environment.sh

NEEDS=(
  "ros-rclpy==9.1.2" "ros-rmw-fastrtps-cpp==9.3.3" "ros-sensor-msgs==5.5.1" "ros-std-msgs==5.5.1"
  "ros-geometry-msgs==5.5.1" "ros-nav-msgs==5.5.1" "numpy<2.5" "opencv-python-headless==5.0.0.93"
  "pillow<14"
)
MODULES="rclpy, sensor_msgs.msg, std_msgs.msg, geometry_msgs.msg, nav_msgs.msg, cv2, numpy, PIL"
make_environment ros2 "$MODULES" "${NEEDS[@]}"
