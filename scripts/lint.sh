#!/usr/bin/env bash
# Checks style, types, shell scripts, links and spelling. Runs every check, then names the ones
# that failed.
#
#   bash scripts/lint.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PATH="$PWD/.venv/bin:$PATH"
failed=()

# check NAME COMMAND...
check() {
  local name="$1"
  shift
  echo "== $name"
  "$@" || failed+=("$name")
}

cpp_sources() { find cpp -type f \( -name '*.cpp' -o -name '*.hpp' -o -name '*.h' -o -name '*.cu' \); }

check "ruff check" ruff check .
check "ruff format" ruff format --check .
mapfile -t sources < <(cpp_sources)
check "clang-format" clang-format --dry-run -Werror "${sources[@]}"
check "pyright" pyright
check "shellcheck" shellcheck scripts/*.sh scripts/environments/*.sh scripts/slurm/* .ci/run benchmarks/*/*.sh
check "links" python scripts/check_links.py
check "codespell" codespell

if [ ${#failed[@]} -gt 0 ]; then
  printf 'lint: error: failed:' >&2
  printf ' %s;' "${failed[@]}" >&2
  printf ' see above\n' >&2
  exit 1
fi
echo "lint: no faults found"
