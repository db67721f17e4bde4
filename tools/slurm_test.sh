#!/usr/bin/env bash
# Test by Slurm, one task per GPU.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_launch.sh"

(($# >= 4)) || usage "[GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS=...]" \
    "$0 PARTITION JOB_NAME CONFIG CHECKPOINT [options of test.py]"
run_slurm test.py "$1" "$2" "$3" "$4" "${@:5}"
