#!/usr/bin/env bash
# Makes the environment in which the tests ask `flux-runtime serve` as openpi's robots do: openpi's
# own client, which needs an older numpy than flux.
#
#   bash scripts/environments/openpi.sh    .venv-openpi, about 120 MB
#
# Returns at once if nothing has changed. Exits with 75 if the package server does not answer.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
. scripts/pip_environment.sh

# It imports typing_extensions and does not name it.
NEEDS=("openpi-client==0.1.2" "numpy<2" typing_extensions)
make_environment openpi "openpi_client.websocket_client_policy, numpy" "${NEEDS[@]}"
