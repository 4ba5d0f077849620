#!/usr/bin/env bash
# Makes .venv with all packages of this repository, editable. Returns quickly if nothing changed.
#
#   PYTHON=python3.12 bash scripts/setup_environment.sh
#
# Installs missing system packages if it runs as root on Debian or Ubuntu, and lists them otherwise.
# FLUX_SKIP_SYSTEM_CHECK=1 continues without them, e.g. if a GPU driver does the rendering.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON="${PYTHON:-python3}"
VENV=.venv
STAMP="$VENV/.flux-stamp"
TORCH="$(grep '^torch==' constraints.txt)"
PACKAGES=(
  -e "packages/flux-core[torch,sim]"
  -e "packages/flux-data[hdf5]"
  -e "packages/flux-train[tensorboard,wandb]"
  -e "packages/flux-runtime[cpu,openvino,sim,report,export,serve,build]"
)
STEPS=5
step=0

say() {
  step=$((step + 1))
  echo "[$step/$STEPS] $*"
}

fail() {
  echo "setup: error: $*" >&2
  exit 1
}

pip_install() {
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
}

# Everything that the contents of .venv depend on. The text of Python sources is not included,
# because the packages are editable. flux-runtime's file names are, because its installation
# contains a table of its files.
fingerprint() {
  {
    "$PYTHON" -VV
    find packages/*/pyproject.toml constraints.txt requirements-dev.txt \
      scripts/setup_environment.sh -type f
    find cpp -type f \( -name '*.?pp' -o -name '*.h' -o -name 'CMake*' \)
    find packages/flux-runtime/src -type f ! -path '*/__pycache__/*' | sed 's/^/installed /'
  } | LC_ALL=C sort | while IFS= read -r line; do
    echo "$line"
    if [ -f "$line" ]; then cat "$line"; fi
  done | sha256sum
}

has_library() { { ldconfig -p 2>/dev/null || /sbin/ldconfig -p; } | grep -F "$1" >/dev/null; }

compiles_cpp20() {
  printf '#include <concepts>\n#include <span>\ntemplate <std::integral T> T f(T x) { return x; }\n' |
    "${CXX:-c++}" -std=c++20 -fsyntax-only -x c++ - 2>/dev/null
}

has_python_header() {
  "$PYTHON" -c 'import pathlib, sys, sysconfig
sys.exit(not (pathlib.Path(sysconfig.get_path("include")) / "Python.h").is_file())'
}

has_mesa_drivers() {
  if command -v dpkg >/dev/null; then
    dpkg -s libgl1-mesa-dri >/dev/null 2>&1
  fi
}

# Prints the Debian names of missing system packages, one per line.
missing_system_packages() {
  "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
  has_python_header || echo python3-dev
  compiles_cpp20 || echo g++
  if [ "$(uname)" = Linux ]; then
    has_library libOSMesa.so || echo libosmesa6
    has_library libEGL.so || echo libegl1
    has_mesa_drivers || echo libgl1-mesa-dri
  fi
}

check_system() {
  local missing command
  missing="$(missing_system_packages | tr '\n' ' ')"
  missing="${missing% }"
  if [ -z "$missing" ]; then return; fi
  if [ "${FLUX_SKIP_SYSTEM_CHECK:-0}" = 1 ]; then
    echo "      missing and skipped: $missing"
    return
  fi
  command="apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing"
  if ! command -v apt-get >/dev/null; then
    fail "missing system packages (Debian names): $missing. Install them and run this again."
  fi
  if [ "$(id -u)" != 0 ]; then
    fail "missing system packages. Run: sudo sh -c '$command'"
  fi
  echo "      installing $missing"
  sh -c "$command" >/dev/null || fail "could not install $missing"
}

command -v "$PYTHON" >/dev/null || fail "PYTHON: no '$PYTHON' here. Set it to Python 3.11 or newer"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "expected Python 3.11 or newer, got $("$PYTHON" -V 2>&1). Set PYTHON to a newer one."

now="$(fingerprint)"
if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$now" ]; then
  echo "setup: .venv is up to date"
  exit 0
fi

say "System packages: compiler, Python headers, headless rendering"
check_system

say "Python environment in $VENV ($("$PYTHON" -V 2>&1))"
rm -f "$STAMP"
if [ ! -x "$VENV/bin/python" ]; then "$PYTHON" -m venv "$VENV"; fi

say "$TORCH"
pip_install -c constraints.txt "$TORCH"

# One command for all packages, because on PyPI some of their names belong to other projects.
say "The packages and their dependencies; the C++ core is compiled here"
pip_install -c constraints.txt -r requirements-dev.txt "${PACKAGES[@]}"

say "Checking the environment"
"$VENV/bin/python" -c 'import flux_core, flux_runtime' || fail "the packages cannot be imported"
"$VENV/bin/python" -m pip --quiet check || echo "setup: warning: see the conflicts above" >&2
echo "$now" >"$STAMP"
echo "setup: done. Commands are in $VENV/bin: flux-data, flux-train, flux-export, flux-runtime"
