#!/usr/bin/env bash
# Sourced by the scripts of environments that pip alone can make.

UNREACHABLE=75 # the exit code of a script whose package server does not answer

# make_environment NAME MODULES NEED...: makes .venv-NAME with what is needed, in which MODULES can
# then be imported. Returns at once if nothing has changed, and exits if it cannot be made.
make_environment() {
  local python="${PYTHON:-python3}" name="$1" modules="$2" venv=".venv-$1" wanted
  shift 2
  wanted="$("$python" -VV) $*"
  if [ "$(cat "$venv/.flux-stamp" 2>/dev/null)" = "$wanted" ]; then return; fi
  echo "      making $venv"
  local install=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
  "$python" -m venv --clear "$venv" || exit 1
  if ! "${install[@]}" "$@" 2>"$venv/pip.log"; then
    cat "$venv/pip.log" >&2
    if ! "${install[@]}" --dry-run --no-deps --ignore-installed numpy >/dev/null 2>&1; then
      echo "$name: error: the package server does not answer" >&2
      exit "$UNREACHABLE"
    fi
    echo "$name: error: $venv: could not be created; see pip's messages above" >&2
    exit 1
  fi
  if ! "$venv/bin/python" -c "import $modules"; then
    echo "$name: error: $venv: expected $modules after the installation" >&2
    exit 1
  fi
  echo "$wanted" >"$venv/.flux-stamp"
}
