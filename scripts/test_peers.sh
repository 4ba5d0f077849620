#!/usr/bin/env bash
# Runs the tests that `make test` skips because a peer is missing: real LeRobot, LIBERO, a browser.
#
#   bash scripts/test_peers.sh [PEER ...]   lerobot-0.3, lerobot-0.4, libero, browser (default: all)
#
# Each peer except the browser gets its own environment, .venv-PEER, which is kept; together they
# take about 6 GB. Missing system packages (ffmpeg, chromium) are installed if the script runs as
# root on Debian or Ubuntu, and listed otherwise. FLUX_BROWSER names another Chromium or Chrome.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

PYTHON="${PYTHON:-python3}"

error() { echo "test_peers: error: $*" >&2; }

# need_system PACKAGE: installs a Debian package, or says that it is missing.
need_system() {
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "      installing $1"
    if { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y \
      --no-install-recommends "$1"; } >/dev/null 2>&1; then return; fi
  fi
  error "$2 is missing. Run: sudo apt-get install $1"
  return 1
}

make_libero() {
  local venv=.venv-libero wanted
  wanted="$({ "$PYTHON" -VV && cat scripts/setup_libero.sh constraints.txt packages/*/pyproject.toml &&
    find packages/flux-runtime/src -type f ! -path '*/__pycache__/*' | LC_ALL=C sort; } | sha256sum)"
  if [ "$(cat "$venv/.flux-stamp" 2>/dev/null)" = "$wanted" ]; then return; fi
  bash scripts/setup_libero.sh "$venv" && echo "$wanted" >"$venv/.flux-stamp"
}

find_browser() {
  local name found names=(chromium chromium-browser google-chrome)
  if [ -n "${FLUX_BROWSER:-}" ]; then names=("$FLUX_BROWSER"); fi
  for name in "${names[@]}"; do
    if found="$(command -v "$name")"; then
      export FLUX_BROWSER="$found"
      return
    fi
  done
  if [ -n "${FLUX_BROWSER:-}" ]; then
    error "FLUX_BROWSER: '$FLUX_BROWSER' not found"
    return 1
  fi
  need_system chromium "a browser (Chromium or Chrome)" && export FLUX_BROWSER=chromium
}

# prepare PEER: makes a peer's environment and exports its path for the tests.
prepare() {
  case "$1" in
    lerobot-0.3)
      bash scripts/environments/lerobot.sh 0.3 &&
        export FLUX_LEROBOT_03="$PWD/.venv-lerobot-0.3/bin/python"
      ;;
    lerobot-0.4)
      bash scripts/environments/lerobot.sh 0.4 &&
        export FLUX_LEROBOT_04="$PWD/.venv-lerobot-0.4/bin/python"
      ;;
    libero) make_libero && export FLUX_LIBERO_PYTHON="$PWD/.venv-libero/bin/python" ;;
    browser) find_browser ;;
  esac
}

# A string that only a peer's tests contain, and the reason that they give if they are skipped.
mark_of() {
  case "$1" in
    lerobot-0.3) echo FLUX_LEROBOT_03 ;;
    lerobot-0.4) echo FLUX_LEROBOT_04 ;;
    libero) echo FLUX_LIBERO_PYTHON ;;
    browser) echo open_browser ;;
  esac
}

reason_of() {
  case "$1" in
    browser) echo "needs a browser" ;;
    *) mark_of "$1" ;;
  esac
}

if [ $# -eq 0 ]; then set -- lerobot-0.3 lerobot-0.4 libero browser; fi
for peer in "$@"; do
  if [ -z "$(mark_of "$peer")" ]; then
    error "PEER: expected some of lerobot-0.3, lerobot-0.4, libero, browser, got '$peer'"
    exit 2
  fi
done

log="$(mktemp)"
trap 'rm -f "$log"' EXIT
failed=()
for peer in "$@"; do
  echo "== $peer"
  prepare "$peer" || {
    failed+=("$peer")
    continue
  }
  mapfile -t files < <(grep -rl --include='test_*.py' "$(mark_of "$peer")" tests)
  .venv/bin/python -m pytest -q "${files[@]}" 2>&1 | tee "$log"
  if [ "${PIPESTATUS[0]}" != 0 ]; then
    failed+=("$peer")
  elif grep -E '^SKIPPED' "$log" | grep -F "$(reason_of "$peer")" >/dev/null; then
    error "$peer: expected its tests to run, got skipped ones, see above"
    failed+=("$peer")
  fi
done

if [ ${#failed[@]} -gt 0 ]; then
  error "failed: ${failed[*]}"
  exit 1
fi
echo "test_peers: no faults found with: $*"
