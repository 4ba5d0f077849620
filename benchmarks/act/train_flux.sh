#!/usr/bin/env bash
# Trains our policy for the comparison with ACT; checkpoints on the way.
#
#   bash benchmarks/act/train_flux.sh RUN CONFIG DATASET STEPS SAVE_EVERY [OVERRIDE ...]
#
# OVERRIDEs are --cfg-options of flux-train. RUN is any name, DATASET relative to the repository;
# timed.py says what is kept.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [ $# -lt 5 ]; then
  sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 2
fi
run="$1" config="$2" dataset="$3" steps="$4" every="$5"
shift 5
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
.venv/bin/python benchmarks/act/timed.py "$run" -- .venv/bin/flux-train "$config" "work_dirs/act/$run" \
  --cfg-options train_dataloader.dataset.datasets.data_root_path="$dataset" \
  runner.max_steps="$steps" runner.save_iter_interval="$every" runner.max_checkpoints=100 \
  runner.log_interval=50 "$@"
