#!/usr/bin/env bash
# Installs what the tests with ROS 1 need: Debian's rospy, messages and master, for /usr/bin/python3.
#
#   bash scripts/environments/ros1.sh
#
# Returns at once if it is all there. Exits with 75 if the package server does not answer.
set -euo pipefail

PYTHON=/usr/bin/python3
PACKAGES=(
  python3-rospy python3-rosmaster python3-std-msgs python3-sensor-msgs python3-geometry-msgs
  python3-nav-msgs python3-numpy python3-pil
)
MODULES="rospy, rosmaster, std_msgs.msg, sensor_msgs.msg, geometry_msgs.msg, nav_msgs.msg, numpy, PIL"
UNREACHABLE=75

fail() {
  echo "ros1: error: $1" >&2
  exit "${2:-1}"
}

has_all() { "$PYTHON" -c "import $MODULES" 2>/dev/null; }

if has_all; then exit 0; fi
install="apt-get install -y --no-install-recommends ${PACKAGES[*]}"
command -v apt-get >/dev/null || fail "expected Debian or Ubuntu with apt-get. Install ROS 1 there"
if [ "$(id -u)" != 0 ]; then
  fail "packages are missing. Run: sudo sh -c 'apt-get update && $install'"
fi
echo "ros1: installing ${PACKAGES[*]}"
apt-get -o APT::Update::Error-Mode=any update >/dev/null ||
  fail "the package server does not answer" "$UNREACHABLE"
DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes $install >/dev/null || fail "could not install ROS 1"
has_all || fail "expected $MODULES in $PYTHON after the installation, see: $PYTHON -c 'import $MODULES'"
