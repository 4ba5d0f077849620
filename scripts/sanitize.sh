#!/usr/bin/env bash
# Builds the C++ core and its unit tests with sanitizers and runs them:
#
#   bash scripts/sanitize.sh            address + undefined behaviour, then threads
#   bash scripts/sanitize.sh tsan       one of: asan, tsan
#
# Builds under build/cpp/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ -d .venv/bin ]; then PATH="$PWD/.venv/bin:$PATH"; fi
command -v cmake >/dev/null || {
  echo "sanitize: error: cmake: not installed. Run: pip install cmake" >&2
  exit 1
}

export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=1:halt_on_error=1}"
export UBSAN_OPTIONS="${UBSAN_OPTIONS:-print_stacktrace=1:halt_on_error=1}"
export TSAN_OPTIONS="${TSAN_OPTIONS:-halt_on_error=1:second_deadlock_stack=1}"

if [ $# -eq 0 ]; then set -- asan tsan; fi
for preset in "$@"; do
  build="build/cpp/$preset"
  echo "== $preset"
  (cd cpp && cmake --preset "$preset" -DFLUX_BUILD_EXAMPLES=OFF >/dev/null)
  cmake --build "$build" --parallel "$(nproc)"
  ctest --test-dir "$build" --output-on-failure
done
echo "sanitize: no faults found"
