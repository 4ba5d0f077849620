#!/usr/bin/env bash
# Makes an environment with the LIBERO benchmark for flux-eval and flux-data demo.
#
#   bash scripts/setup_libero.sh [VENV]
#   .venv-libero/bin/flux-eval --suite libero-object --bundle my_bundle --episodes 5
#   .venv-libero/bin/flux-data demo libero-object --task 0 --episodes 10 --out data/soup
#
# A separate environment, because LIBERO needs a different MuJoCo version from the one that the
# simulated ALOHA is tested with. It downloads 500 MB, and VENV (.venv-libero by default) takes
# 2.6 GB. It contains no torch, so run flux-export in .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON="${PYTHON:-python3}"
VENV="${1:-.venv-libero}"
MUJOCO="mujoco==3.3.7"

fail() {
  echo "setup_libero: error: $*" >&2
  exit 1
}

command -v "$PYTHON" >/dev/null || fail "PYTHON: no '$PYTHON' here. Set it to Python 3.11 or newer"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "expected Python 3.11 or newer, got $("$PYTHON" -V 2>&1). Set PYTHON to a newer one."

echo "[1/3] Python environment in $VENV ($("$PYTHON" -V 2>&1))"
if [ ! -x "$VENV/bin/python" ]; then "$PYTHON" -m venv "$VENV"; fi
VENV="$(cd "$VENV" && pwd)"

echo "[2/3] LIBERO, the packages and their dependencies; the C++ core is compiled here"
# The tested versions of all packages except MuJoCo.
sed "s/^mujoco==.*/$MUJOCO/" constraints.txt >"$VENV/constraints.txt"
# One command for all packages, because on PyPI some of their names belong to other projects. A
# separate build directory, because .venv's was configured for another environment.
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -c "$VENV/constraints.txt" \
  --config-settings=build-dir="$VENV/build-flux" \
  -e "packages/flux-core[libero]" -e packages/flux-data -e "packages/flux-runtime[cpu,report]"

echo "[3/3] Checking: every suite opens, one task resets and renders"
"$VENV/bin/python" - <<'EOF' || fail "LIBERO does not run. Debian and Ubuntu need: apt-get install libegl1 libgl1 libgl1-mesa-dri libglib2.0-0"
from flux_core.sim import LiberoSim, libero_tasks
from flux_core.sim.libero import MAX_STEPS

counts = {suite: len(libero_tasks(suite)) for suite in MAX_STEPS}
with LiberoSim(libero_tasks("libero-object")[0]) as sim:
    assert all(image.std() > 10 for image in sim.render().values()), "the images are empty"
print("      tasks:", ", ".join(f"{suite} {count}" for suite, count in counts.items()))
EOF
echo "setup_libero: done. Use $VENV/bin/flux-eval --suite libero-..., flux-data demo libero-object"
