#!/usr/bin/env bash
# Makes the environment in which the tests drive a UR arm: ur_rtde, and OpenCV for the cameras.
#
#   bash scripts/environments/rtde.sh    .venv-rtde, about 270 MB
#
# Returns at once if nothing has changed. Exits with 75 if the package server does not answer.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
. scripts/pip_environment.sh

NEEDS=("ur_rtde==1.6.5" "numpy<2.5" "opencv-python-headless==5.0.0.93")
make_environment rtde "rtde_control, rtde_receive, numpy, cv2" "${NEEDS[@]}"
