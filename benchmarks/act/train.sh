#!/usr/bin/env bash
# Trains LeRobot's ACT with its own command, on a LeRobot v3.0 dataset; checkpoints on the way.
#
#   bash benchmarks/act/train.sh DATASET OUT STEPS SAVE_EVERY [OPTION ...]
#
# OPTIONs go to lerobot-train. Everything is LeRobot's default except: a ResNet without pretrained
# weights, which come from a hub, and without their mean and deviation of pixels. All recorded cameras
# are used as recorded, and loaded by the process that trains. OUT/time.txt gets the CPU time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [ $# -lt 4 ]; then
  sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 2
fi
dataset="$(realpath "$1")" out="$2" steps="$3" every="$4"
shift 4
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
mkdir -p "$(dirname "$out")"
TIMEFORMAT='real %R s, CPU %U + %S s'
{
  time .venv-act/bin/python -m lerobot.scripts.lerobot_train \
    --dataset.repo_id="local/$(basename "$dataset")" --dataset.root="$dataset" \
    --dataset.use_imagenet_stats=false \
    --policy.type=act --policy.device=cpu --policy.push_to_hub=false \
    --policy.pretrained_backbone_weights=null \
    --batch_size=8 --num_workers=0 --seed=1000 --wandb.enable=false --eval_freq=0 \
    --steps="$steps" --save_freq="$every" --log_freq=100 --output_dir="$out" "$@"
} 2> >(tee "$out.log" >&2)
mv "$out.log" "$out/train.log"
tail -n 1 "$out/train.log" >"$out/time.txt"
