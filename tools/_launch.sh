# Sourced by the dist_*.sh and slurm_*.sh scripts.

TOOLS=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
PYTHON=${PYTHON:-python}
export PYTHONPATH="$(dirname -- "$TOOLS")${PYTHONPATH:+:$PYTHONPATH}"

usage() {
    echo "usage: $*" >&2
    exit 2
}

# run_dist SCRIPT GPUS ARGS...: torchrun on this machine, one process per GPU (without
# GPUs: so many processes on the CPU).
run_dist() {
    local script=$1 gpus=$2
    shift 2
    if ! [[ $gpus =~ ^[1-9][0-9]*$ ]]; then
        echo "$(basename -- "$0"): GPUS must be a positive number, got '$gpus'" >&2
        exit 2
    fi
    if [[ -z ${OMP_NUM_THREADS:-} ]]; then
        # torchrun would set 1 and say so at length: too few for processes on the CPU.
        local threads=1
        if [[ ${CUDA_VISIBLE_DEVICES-} == -1 ]] || ! nvidia-smi -L &>/dev/null; then
            threads=$(($(nproc) / gpus))
        fi
        export OMP_NUM_THREADS=$((threads > 0 ? threads : 1))
        export MKL_NUM_THREADS=${MKL_NUM_THREADS:-$OMP_NUM_THREADS}
    fi
    exec "$PYTHON" "$TOOLS/_torchrun.py" \
        --nnodes="${NNODES:-1}" \
        --node_rank="${NODE_RANK:-0}" \
        --master_addr="${MASTER_ADDR:-127.0.0.1}" \
        --master_port="${PORT:-29500}" \
        --max_restarts="${MAX_RESTARTS:-0}" \
        --nproc_per_node="$gpus" \
        "$TOOLS/$script" "$@" --launcher pytorch
}

# run_slurm SCRIPT PARTITION JOB_NAME ARGS...: srun, one task per GPU.
run_slurm() {
    local script=$1 partition=$2 job_name=$3 per_node=${GPUS_PER_NODE:-8}
    shift 3
    # SRUN_ARGS holds several arguments: it is split on purpose.
    exec srun -p "$partition" \
        --job-name="$job_name" \
        --gres=gpu:"$per_node" \
        --ntasks="${GPUS:-8}" \
        --ntasks-per-node="$per_node" \
        --cpus-per-task="${CPUS_PER_TASK:-5}" \
        --kill-on-bad-exit=1 \
        ${SRUN_ARGS:-} \
        "$PYTHON" -u "$TOOLS/$script" "$@" --launcher slurm
}
