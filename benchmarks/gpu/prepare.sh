#!/usr/bin/env bash
# Prepares on a machine without a GPU what benchmarks/gpu/run.py needs on a bare GPU machine.
#
#   PYTHON=python3.12 bash benchmarks/gpu/prepare.sh [ARCH...]
#
# Writes benchmarks/gpu/prepared, which git ignores: wheels of this repository and of the packages in
# carried.txt, and kernels for the ARCHs (default: sm_90a, which is H100 and H200). PYTHON has the
# version of the GPU machine's Python, and pip. Also needs .venv (make install) and a C++ compiler.
# Fails if the folder and the tracked files are together too large to travel.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

PYTHON="${PYTHON:-python3.12}"
architectures=("$@")
if [ ${#architectures[@]} -eq 0 ]; then architectures=(sm_90a); fi
prepared=benchmarks/gpu/prepared

# The kernels stay, because each takes seconds to compile: those that fit are not compiled again.
rm -rf "$prepared/wheels"
mkdir -p "$prepared/wheels"
"$PYTHON" -m pip wheel --quiet --no-deps --wheel-dir "$prepared/wheels" \
  packages/flux-core packages/flux-data packages/flux-train packages/flux-runtime
"$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: --dest "$prepared/wheels" \
  --constraint constraints.txt --requirement benchmarks/gpu/carried.txt
.venv/bin/python benchmarks/gpu/compile_kernels.py "$prepared/kernels" "${architectures[@]}"
"$PYTHON" benchmarks/gpu/prepared_folder.py "$prepared"
