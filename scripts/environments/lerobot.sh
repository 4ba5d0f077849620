#!/usr/bin/env bash
# Makes an environment with real LeRobot, which the tests of its arms and of its datasets run in.
#
#   bash scripts/environments/lerobot.sh [0.3|0.4]    .venv-lerobot-0.4 by default, about 2 GB
#
# Returns quickly if nothing has changed. LeRobot is installed without its dependencies, which would
# replace our version of torch. Installs ffmpeg, which torchcodec loads, if it runs as root on Debian
# or Ubuntu, and says so otherwise. Exits with 75 if the package server does not answer.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit

PYTHON="${PYTHON:-python3}"
TORCH="$(grep '^torch==' constraints.txt)"
TORCHVISION="torchvision==0.28.0" # the version that belongs to this torch
NEEDS=(
  "av>=15,<16" "numpy<2.3" "opencv-python-headless<4.13" "torchcodec==0.13.0" "draccus==0.10.0"
  accelerate deepdiff einops imageio jsonlines packaging pandas pillow pyarrow safetensors termcolor
  "feetech-servo-sdk==1.0.0" pyserial # the motors of SO-100 and SO-101
)

UNREACHABLE=75

error() { echo "lerobot: error: $*" >&2; }

has_ffmpeg() { { ldconfig -p 2>/dev/null || /sbin/ldconfig -p; } | grep -F libavcodec.so >/dev/null; }

need_ffmpeg() {
  if has_ffmpeg; then return; fi
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "lerobot: installing ffmpeg"
    if { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y \
      --no-install-recommends ffmpeg; } >/dev/null 2>&1; then return; fi
  fi
  error "ffmpeg, which torchcodec loads, is missing. Run: sudo apt-get install ffmpeg"
  return 1
}

# answers PYTHON: whether the package server gives a small package, or says that it does not.
answers() {
  local folder status
  folder="$(mktemp -d)"
  "$1" -m pip download --quiet --disable-pip-version-check --no-deps --no-cache-dir \
    --dest "$folder" pyserial >/dev/null 2>&1
  status="$?"
  rm -rf "$folder"
  if [ "$status" != 0 ]; then error "the package server does not answer"; fi
  return "$status"
}

case "${1:-0.4}" in
  0.3)
    version=0.3.3
    needs=("datasets>=2.19,<=3.6.0" "huggingface_hub<1" "gymnasium<1.0")
    ;;
  0.4)
    version=0.4.4
    needs=("datasets>=4,<5" "huggingface_hub>=0.34,<2" "gymnasium>=1.1.1,<2")
    ;;
  *)
    error "expected 0.3 or 0.4, got '$1'"
    exit 2
    ;;
esac

venv=".venv-lerobot-${1:-0.4}"
operators="scripts/environments/torchvision_operators.py"
wanted="$("$PYTHON" -VV) $TORCH lerobot==$version ${needs[*]} ${NEEDS[*]} $(sha256sum "$operators")"
need_ffmpeg || exit 1
if [ "$(cat "$venv/.flux-stamp" 2>/dev/null)" = "$wanted" ]; then exit 0; fi
echo "lerobot: making $venv"
install=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
"$PYTHON" -m venv --clear "$venv" &&
  "${install[@]}" "$TORCH" "${needs[@]}" "${NEEDS[@]}" &&
  "${install[@]}" --no-deps "lerobot==$version" "$TORCHVISION" &&
  "$venv/bin/python" "$operators" &&
  echo "$wanted" >"$venv/.flux-stamp" && exit 0
answers "$venv/bin/python" || exit "$UNREACHABLE"
error "$venv: could not be created; see pip's messages above"
exit 1
