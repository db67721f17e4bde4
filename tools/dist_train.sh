#!/usr/bin/env bash
# Train on the GPUs of this machine, or as one of NNODES machines. After a process was
# killed all are started again, up to MAX_RESTARTS times, and resume by themselves.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_launch.sh"

(($# >= 2)) || usage "[NNODES=1] [NODE_RANK=0] [MASTER_ADDR=127.0.0.1] [PORT=29500]" \
    "[MAX_RESTARTS=2] $0 CONFIG GPUS [options of train.py]"
MAX_RESTARTS=${MAX_RESTARTS:-2}
run_dist train.py "$2" "$1" "${@:3}"
