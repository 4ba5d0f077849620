#!/usr/bin/env bash
# Makes the environments of the tests with robots; quick where they are made already.
#
#   bash scripts/robot_environments.sh [NAME ...]   ros1, ... (default: all of scripts/environments)
#
# Exits with 1 if one cannot be made. If only a package server does not answer, it says so, notes the
# environments that are missing in build/robots-unreachable, and exits with 0: their tests are skipped.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

UNREACHABLE=75 # what a script exits with if its package server does not answer
NOTE=build/robots-unreachable
known=()
for script in scripts/environments/*.sh; do
  known+=("$(basename "$script" .sh)")
done
if [ $# -eq 0 ]; then set -- "${known[@]}"; fi

failed=()
unreachable=()
for name in "$@"; do
  if [ ! -f "scripts/environments/$name.sh" ]; then
    echo "robot_environments: error: expected some of ${known[*]}, got '$name'" >&2
    exit 2
  fi
  bash "scripts/environments/$name.sh"
  case "$?" in
    0) ;;
    "$UNREACHABLE") unreachable+=("$name") ;;
    *) failed+=("$name") ;;
  esac
done

mkdir -p build
printf '%s\n' "${unreachable[@]}" >"$NOTE"
if [ ${#unreachable[@]} -gt 0 ]; then
  echo "robot_environments: no package server answers for: ${unreachable[*]}" >&2
fi
if [ ${#failed[@]} -gt 0 ]; then
  echo "robot_environments: error: could not be made: ${failed[*]}" >&2
  exit 1
fi
