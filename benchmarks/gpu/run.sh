#!/usr/bin/env bash
# Runs all benchmarks and tests that need a GPU; writes the figures (JSON) and logs to OUT.
#
#   bash benchmarks/gpu/run.sh OUT [BATCH]
#
# Needs a GPU with 80 GB and the packages of this repository with a CUDA build of torch. A step that
# fails does not stop the others; the exit code is 1 if any step failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit

if [ $# -lt 1 ]; then
  sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 2
fi
OUT="$1"
BATCH="${2:-32}"
PYTHON="${PYTHON:-python}"
mkdir -p "$OUT"

"$PYTHON" -c 'import sys, torch
if not torch.cuda.is_available():
    sys.exit("run.sh: error: expected a GPU that torch can use, got none")
print(torch.__version__, torch.cuda.get_device_name())' | tee "$OUT/device.txt" || exit 1

failed=()
step() {
  local name="$1"
  shift
  echo "== $name: $*"
  "$@" >"$OUT/$name.log" 2>&1 || failed+=("$name")
  tail -n 12 "$OUT/$name.log"
}

step model "$PYTHON" benchmarks/model.py --size full --dtype bfloat16 --device cuda --compile \
  --rounds 20 --out "$OUT/model.json"
for finetune in frozen lora full; do
  # A full finetune's optimiser takes 53 GB, so its layers are recomputed and the batch is small.
  extra=(--batch "$BATCH")
  if [ "$finetune" = full ]; then extra=(--batch 8 --recompute); fi
  step "train_$finetune" "$PYTHON" benchmarks/train.py --size full --finetune "$finetune" --bf16 \
    --device cuda --rounds 1 --steps 10 "${extra[@]}" --out "$OUT/train_$finetune.json"
done
step train_compiled "$PYTHON" benchmarks/train.py --size full --finetune frozen --bf16 --compile \
  --device cuda --rounds 1 --steps 10 --batch "$BATCH" --out "$OUT/train_compiled.json"

# Exports each network in bf16 and times the engines that reproduce its golden. An engine that does
# not is refused, and the step fails. TensorRT builds its engines during this step.
step gpu_tests "$PYTHON" -m pytest -q -m gpu tests
for model in pi0 pi05; do
  step "runtime_$model" flux-runtime bench --model "$model" --size full --random-weights \
    --precision bf16 --engine onnxruntime-cuda onnxruntime-tensorrt tensorrt --repeat 50 \
    --out "$OUT/runtime_$model.json"
done

if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}; see $OUT" >&2
  exit 1
fi
echo "figures in $OUT"
