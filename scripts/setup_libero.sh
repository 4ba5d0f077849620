#!/usr/bin/env bash
# Makes an environment with the LIBERO benchmark in which all of flux-eval and flux-data demo run.
#
#   bash scripts/setup_libero.sh [VENV]
#   .venv-libero/bin/flux-eval --suite libero-object --bundle my_bundle --episodes 5
#   .venv-libero/bin/flux-data demo libero-object --task 0 --episodes 40 --out datasets/libero_scripted
#
# An environment of its own, because LIBERO needs another MuJoCo than the simulated ALOHA is tested
# with. 500 MB are downloaded, and VENV (.venv-libero by default) takes 2.6 GB. It holds no torch:
# export a checkpoint in .venv, with flux-export.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON="${PYTHON:-python3}"
VENV="${1:-.venv-libero}"
MUJOCO="mujoco==3.3.7"

fail() {
  echo "setup_libero: error: $*" >&2
  exit 1
}

command -v "$PYTHON" >/dev/null || fail "no '$PYTHON'. Set PYTHON to a Python of 3.11 or newer."
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "expected Python 3.11 or newer, got $("$PYTHON" -V 2>&1). Set PYTHON to a newer one."

echo "[1/3] Python environment in $VENV ($("$PYTHON" -V 2>&1))"
if [ ! -x "$VENV/bin/python" ]; then "$PYTHON" -m venv "$VENV"; fi
VENV="$(cd "$VENV" && pwd)"

echo "[2/3] LIBERO, the packages and their dependencies; the C++ core is compiled here"
# The tested versions of everything but MuJoCo.
sed "s/^mujoco==.*/$MUJOCO/" constraints.txt >"$VENV/constraints.txt"
# One command for all siblings, so that a stranger's package of the same name is never fetched. A
# build directory of its own, because .venv's build has compiled for another environment.
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
