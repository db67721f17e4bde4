#!/usr/bin/env bash
# Test on the GPUs of this machine, or as one of NNODES machines.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_launch.sh"

(($# >= 3)) || usage "[NNODES=1] [NODE_RANK=0] [MASTER_ADDR=127.0.0.1] [PORT=29500]" \
    "$0 CONFIG CHECKPOINT GPUS [options of test.py]"
run_dist test.py "$3" "$1" "$2" "${@:4}"
