#!/usr/bin/env bash
# Trains LeRobot's ACT with its own command, on a LeRobot v3.0 dataset; checkpoints on the way.
#
#   bash benchmarks/act/train.sh RUN DATASET STEPS SAVE_EVERY [OPTION ...]
#
# OPTIONs go to lerobot-train. Everything is LeRobot's default except: a ResNet without pretrained
# weights, which come from a hub, and without their mean and deviation of pixels. All recorded cameras
# are used as recorded, and loaded by the process that trains. RUN is any name, DATASET relative to the
# repository; timed.py says what is kept.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [ $# -lt 4 ]; then
  sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 2
fi
run="$1" dataset="$2" steps="$3" every="$4"
shift 4
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
.venv-act/bin/python benchmarks/act/timed.py "$run" -- .venv-act/bin/python -m lerobot.scripts.lerobot_train \
  --dataset.repo_id="local/$(basename "$dataset")" --dataset.root="$dataset" \
  --dataset.use_imagenet_stats=false \
  --policy.type=act --policy.device=cpu --policy.push_to_hub=false \
  --policy.pretrained_backbone_weights=null \
  --batch_size=8 --num_workers=0 --seed=1000 --wandb.enable=false --eval_freq=0 \
  --steps="$steps" --save_freq="$every" --log_freq=50 --output_dir="work_dirs/act/$run" "$@"
# What only resuming needs: two thirds of a checkpoint.
rm -rf "work_dirs/act/$run"/checkpoints/*/training_state
