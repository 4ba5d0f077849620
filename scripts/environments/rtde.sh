#!/usr/bin/env bash
# Makes the environment in which the tests drive a UR arm: ur_rtde, and OpenCV for the cameras.
#
#   bash scripts/environments/rtde.sh    .venv-rtde, about 270 MB
#
# Returns at once if nothing has changed. Exits with 75 if the package server does not answer.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit

PYTHON="${PYTHON:-python3}"
NEEDS=("ur_rtde==1.6.5" "numpy<2.5" "opencv-python-headless==5.0.0.93")
MODULES="rtde_control, rtde_receive, numpy, cv2"
UNREACHABLE=75

venv=.venv-rtde
wanted="$("$PYTHON" -VV) ${NEEDS[*]}"
if [ "$(cat "$venv/.flux-stamp" 2>/dev/null)" = "$wanted" ]; then exit 0; fi
echo "      making $venv"
install=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
"$PYTHON" -m venv --clear "$venv" || exit 1
if ! "${install[@]}" "${NEEDS[@]}" 2>"$venv/pip.log"; then
  cat "$venv/pip.log" >&2
  if ! "${install[@]}" --dry-run --no-deps --ignore-installed numpy >/dev/null 2>&1; then
    echo "rtde: error: the package server does not answer" >&2
    exit "$UNREACHABLE"
  fi
  echo "rtde: error: $venv: could not be created; see pip's messages above" >&2
  exit 1
fi
if ! "$venv/bin/python" -c "import $MODULES"; then
  echo "rtde: error: $venv: expected $MODULES after the installation" >&2
  exit 1
fi
echo "$wanted" >"$venv/.flux-stamp"
