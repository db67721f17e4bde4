#!/usr/bin/env bash
# Train by Slurm, one task per GPU.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_launch.sh"

(($# >= 4)) || usage "[GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS=...]" \
    "$0 PARTITION JOB_NAME CONFIG WORK_DIR [options of train.py]"
run_slurm train.py "$1" "$2" "$3" --work-dir "$4" "${@:5}"
