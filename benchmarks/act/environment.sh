#!/usr/bin/env bash
# Makes .venv-act: LeRobot's ACT and our simulator, which it is evaluated in.
#
#   bash benchmarks/act/environment.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

bash scripts/environments/lerobot.sh 0.4
"${PYTHON:-python3}" -m venv --clear .venv-act
# addsitedir also reads that environment's own .pth files.
for packages in .venv-lerobot-0.4/lib/python*/site-packages; do
  echo "import site; site.addsitedir('$PWD/$packages')" \
    >".venv-act/${packages#.venv-lerobot-0.4/}/lerobot.pth"
done
.venv-act/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
  "diffusers>=0.27.2,<0.36" "./packages/flux-core[sim]"
.venv-act/bin/python -c "import lerobot, flux_core.sim; print('LeRobot', lerobot.__version__)"
