#!/usr/bin/env bash
# Damages what comes from outside at random, for longer than in the test suite, and counts the examples:
#
#   bash scripts/fuzz.sh bundle|wire [MINUTES]    bundles, or messages of remote inference; 10 by default
#
# Each test tries FLUX_FUZZ_EXAMPLES examples before all tests start again with another seed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case "${1:-}" in
  bundle) tests=tests/flux_core/bundle/test_bundle_fuzz.py examples=500 ;;
  wire) tests=tests/flux_runtime/wire/test_wire_fuzz.py examples=300 ;;
  *)
    echo "fuzz: error: expected bundle or wire, got '${1:-}'" >&2
    exit 2
    ;;
esac

if [ -d .venv/bin ]; then PATH="$PWD/.venv/bin:$PATH"; fi
minutes="${2:-10}"
export FLUX_FUZZ_EXAMPLES="${FLUX_FUZZ_EXAMPLES:-$examples}"
log="$(mktemp)"
trap 'rm -f "$log"' EXIT

end=$((SECONDS + minutes * 60))
total=0
while [ "$SECONDS" -lt "$end" ]; do
  python -m pytest -q -s --hypothesis-seed="$RANDOM" "$tests" >"$log" || {
    cat "$log"
    exit 1
  }
  found="$(sed -n 's/^examples: \([0-9]*\).*/\1/p' "$log")"
  total=$((total + found))
  echo "fuzz $1: $total examples in $SECONDS s"
done
grep '^examples: ' "$log"
echo "fuzz $1: no faults found in $total examples"
