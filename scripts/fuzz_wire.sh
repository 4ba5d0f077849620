#!/usr/bin/env bash
# Damages the messages of remote inference at random, for longer than in the test suite:
#
#   bash scripts/fuzz_wire.sh [MINUTES]    10 by default
#
# Each test tries FLUX_FUZZ_EXAMPLES examples before all tests start again with another seed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ -d .venv/bin ]; then PATH="$PWD/.venv/bin:$PATH"; fi
minutes="${1:-10}"
export FLUX_FUZZ_EXAMPLES="${FLUX_FUZZ_EXAMPLES:-300}"
log="$(mktemp)"
trap 'rm -f "$log"' EXIT

end=$((SECONDS + minutes * 60))
total=0
while [ "$SECONDS" -lt "$end" ]; do
  python -m pytest -q -s --hypothesis-seed="$RANDOM" tests/flux_runtime/wire/test_wire_fuzz.py >"$log" || {
    cat "$log"
    exit 1
  }
  examples="$(sed -n 's/^examples: \([0-9]*\).*/\1/p' "$log")"
  total=$((total + examples))
  echo "fuzz_wire: $total examples in $SECONDS s"
done
grep '^examples: ' "$log"
echo "fuzz_wire: no faults found in $total examples"
