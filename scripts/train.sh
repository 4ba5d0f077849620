#!/usr/bin/env bash
# Trains on all GPUs of one or several nodes, by running torchrun once per node. See --help.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash scripts/train.sh CONFIG WORK_DIR [--resume-from CKPT|auto] [--cfg-options KEY=VALUE ...]

Runs `torchrun -m flux_train CONFIG WORK_DIR ...`; call it once per node. The numbers of processes
and nodes come from environment variables. In each line, the first variable that is set is used:

  processes per node   NPROC_PER_NODE  MLP_WORKER_GPU     SLURM_GPUS_ON_NODE               1
  nodes                WORLD_SIZE      MLP_WORKER_NUM     SLURM_NNODES                     1
  this node's rank     RANK            MLP_ROLE_INDEX     SLURM_NODEID                     0
  address of rank 0    MASTER_ADDR     MLP_WORKER_0_HOST  first of SLURM_JOB_NODELIST      localhost (single node)
  its port             MASTER_PORT     MLP_WORKER_0_PORT                                   29500

example:
  MLP_WORKER_GPU=8 bash scripts/train.sh \
      configs/pi0/pi0_paligemma_aloha_full_train.py work_dirs/pi0_aloha \
      --cfg-options runner.max_epochs=50 runner.learning_rate=1e-5

When it is stopped, it waits up to FLUX_SHUTDOWN_TIMEOUT seconds (3600) for the last checkpoint.
On Slurm, use scripts/slurm/train.sbatch. Two runs on one machine need different MASTER_PORTs.
TEXT
}

fail() {
  echo "train.sh: error: $*" >&2
  exit 2
}

# first_set FALLBACK NAME...: sets `found` and `source` to the first variable that is not empty.
first_set() {
  found="$1" source="the default"
  shift
  local name
  for name in "$@"; do
    if [ -n "${!name:-}" ]; then
      found="${!name}" source="$name"
      return
    fi
  done
}

# number LEAST WHAT: checks that first_set has found an integer of at least LEAST.
number() {
  if ! [[ "$found" =~ ^[0-9]{1,9}$ ]] || ((10#$found < $1)); then
    fail "$source: expected $2, an integer of at least $1, got '$found'"
  fi
  found="$((10#$found))"
}

first_slurm_node() {
  command -v scontrol >/dev/null || fail "SLURM_JOB_NODELIST: expected scontrol to read it with," \
    "got none. Set MASTER_ADDR to the first node's name."
  scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p
}

case "${1:-}" in
  -h | --help)
    usage
    exit 0
    ;;
  "") fail "expected CONFIG and WORK_DIR, got none. See: bash scripts/train.sh --help" ;;
  -*) fail "expected CONFIG and WORK_DIR first, got '$1'. See: bash scripts/train.sh --help" ;;
esac
[ -f "$1" ] || fail "CONFIG: there is no file '$1'"
case "${2:-}" in
  "" | -*) fail "expected WORK_DIR after CONFIG, got '${2:-}'. See: bash scripts/train.sh --help" ;;
esac

first_set 1 NPROC_PER_NODE MLP_WORKER_GPU SLURM_GPUS_ON_NODE
number 1 "the processes per node"
processes="$found"

first_set 1 WORLD_SIZE MLP_WORKER_NUM SLURM_NNODES
number 1 "the number of nodes"
nodes="$found" nodes_source="$source"

first_set 0 RANK MLP_ROLE_INDEX SLURM_NODEID
number 0 "this node's rank"
rank="$found"
((rank < nodes)) || fail "$source: expected this node's rank, below $nodes ($nodes_source), got $rank"
if [ "$source" = SLURM_NODEID ] && [ "${SLURM_LOCALID:-0}" != 0 ]; then
  fail "SLURM_LOCALID: expected 0, as one task per node starts all processes there, got" \
    "$SLURM_LOCALID. Use --ntasks-per-node=1."
fi

first_set "" MASTER_ADDR MLP_WORKER_0_HOST
address="$found"
if [ -z "$address" ] && [ -n "${SLURM_JOB_NODELIST:-}" ]; then
  address="$(first_slurm_node)"
  [ -n "$address" ] || fail "SLURM_JOB_NODELIST: scontrol found no node in '$SLURM_JOB_NODELIST'"
fi
if [ -z "$address" ] && ((nodes > 1)); then
  fail "MASTER_ADDR: expected the address of the node of rank 0, to which all $nodes nodes" \
    "($nodes_source) connect, got none"
fi
address="${address:-localhost}"

first_set 29500 MASTER_PORT MLP_WORKER_0_PORT
number 1 "the port of rank 0"
((found < 65536)) || fail "$source: expected a port below 65536, got $found"
port="$found"

# By default torchrun kills processes after 30 s, which is too soon for a checkpoint of 50 GB.
first_set 3600 FLUX_SHUTDOWN_TIMEOUT
number 1 "the seconds to wait for the last checkpoint"
shutdown="$found"

if ! command -v torchrun >/dev/null; then
  PATH="$PATH:$(dirname "${BASH_SOURCE[0]}")/../.venv/bin"
  command -v torchrun >/dev/null || fail "torchrun: not installed. Run 'make install', or" \
    "activate the environment that has it."
fi

command=(
  torchrun
  --nnodes="$nodes" --node-rank="$rank" --nproc-per-node="$processes"
  --master-addr="$address" --master-port="$port"
  --shutdown-timeout="$shutdown"
  -m flux_train "$@"
)
{
  printf 'train.sh:'
  printf ' %q' "${command[@]}"
  printf '\n'
} >&2
exec "${command[@]}"
