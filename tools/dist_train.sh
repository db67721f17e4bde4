#!/usr/bin/env bash
# Train on the GPUs of this machine, or as one of NNODES machines.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_launch.sh"

(($# >= 2)) || usage "[NNODES=1] [NODE_RANK=0] [MASTER_ADDR=127.0.0.1] [PORT=29500]" \
    "$0 CONFIG GPUS [options of train.py]"
run_dist train.py "$2" "$1" "${@:3}"
