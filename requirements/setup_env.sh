#!/usr/bin/env bash
# Make an environment from pinned versions: setup_env.sh [VENV PINS]
# (by default .venv and requirements/constraints.txt).
#
# uv installs; its cache keeps what was downloaded and compiled for the next clone.
# Read from the environment: PYTHON, the Python to use; FORCE_CUDA, 1 or 0 for mmcv with
# or without CUDA operators, whatever GPU is there; MAX_JOBS, compilers at a time;
# UV_DEFAULT_INDEX, another package index (uv does not read pip's configuration).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=$PWD/${1:-.venv}
pins=${2:-requirements/constraints.txt}
stamp=$venv/focal_mm-setup
unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_USER

stop() {
  echo "set-up stopped: $1" >&2
  exit 1
}

# The requirement of a package, as in `pin torch`: torch==2.11.0.
pin() {
  grep -m1 -Eo "^$1==[^; ]+" "$pins"
}

# A checksum of what an environment depends on; one that is finished holds it.
recipe() {
  { echo "$venv" && "$1" -c 'import sys; print(sys.version)' &&
    cat "$pins" requirements/*.sh focal_mm/ops/window/cpu/attention.cpp; } | cksum
}

is_ready() {
  [[ -x $venv/bin/python && -f $stamp ]] &&
    [[ $(<"$stamp") == "$(recipe "${PYTHON:-$venv/bin/python}")" ]]
}

# Prints the path of a Python that fits; that of no environment, which might be removed.
find_python() {
  local name
  for name in ${PYTHON:-python3 python3.12 python3.11 python3.10}; do
    "$name" -c 'import sys
(3, 10) <= sys.version_info < (3, 13) and print(sys._base_executable)' 2>/dev/null |
      grep . && return
  done
  stop "${PYTHON:-python3} is not Python 3.10 to 3.12: make setup PYTHON=/path/to/one"
}

check_machine() {
  local compiler=${CXX:-c++} headers folder free
  [[ ! -e $venv || -f $stamp ]] ||
    stop "$venv was not made by this script: move it away"
  "$python" -c 'import venv, ensurepip' 2>/dev/null ||
    stop "$python lacks venv or ensurepip (Debian, Ubuntu: install python3-venv)"
  command -v "$compiler" >/dev/null ||
    stop "no C++ compiler $compiler for mmcv (Debian, Ubuntu: install build-essential)"
  headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  [[ -f $headers/Python.h ]] ||
    stop "$python lacks Python.h for mmcv (Debian, Ubuntu: install python3-dev)"
  for folder in "$PWD" "$HOME"; do
    free=$(df -Pk "$folder" | awk 'END {print int($4 / 1e6)}')
    ((free >= 8)) || stop "$folder has $free GB of disk space free, 8 GB are needed"
  done
}

# What mmcv's operators are for, in words that are part of the name of its build.
choose_operators() {
  local seen nvcc=${CUDA_HOME:+$CUDA_HOME/bin/}nvcc
  seen=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null) || seen=
  seen=$(sort -u <<<"$seen" | paste -sd ';')
  if [[ ${FORCE_CUDA:-0} == 1 || (-z ${FORCE_CUDA:-} && -n $seen) ]]; then
    PATH=$PATH:/usr/local/cuda/bin command -v "$nvcc" >/dev/null ||
      stop "no $nvcc for mmcv's CUDA operators: set CUDA_HOME, or FORCE_CUDA=0 for none"
    export FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$seen}
    operators="CUDA ${TORCH_CUDA_ARCH_LIST:-all}"
  else
    export FORCE_CUDA=0 CUDA_VISIBLE_DEVICES= # mmcv's build looks for a GPU by itself
    operators=CPU
  fi
}

install() {
  local quiet=
  [[ -t 2 ]] || quiet=--quiet
  "$venv/bin/uv" pip install $quiet --python "$venv/bin/python" --constraints "$pins" \
    --no-build-isolation "$@" || stop "uv could not install $*: its reason stands above"
}

install_mmcv() {
  export MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$(nproc)}
  export PRECOMPILED=$venv/precompiled REAL_CXX=${CXX:-c++}
  mkdir "$PRECOMPILED"
  if "$REAL_CXX" --version | grep -q 'Free Software'; then
    export CXX=$PWD/requirements/cxx_precompiled.sh
  else
    echo "$REAL_CXX is not g++: without a precompiled header mmcv takes longer"
  fi
  # Built without isolation, a wheel enters uv's cache by its name and version alone.
  # This setting makes what it is built for a part of the key; mmcv's build ignores it.
  install --no-deps --config-setting "for=$(pin torch), $operators" \
    "$(pin '(onedl-)?mmcv')"
  [[ ! -f $PRECOMPILED/failed ]] || cat "$PRECOMPILED/failed"
  rm -rf "$PRECOMPILED"
  export CXX=$REAL_CXX
}

is_ready && exit
# Opened to append, as NFS wants. Commands inherit the lock: those of a set-up that was
# killed keep the next one waiting until they have ended.
exec 9>>"$pins"
flock -n 9 || { echo "waiting for another set-up of this clone" && flock 9; }
is_ready && exit
python=$(find_python)
check_machine
choose_operators
export UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=1 UV_LOCK_TIMEOUT=3600

echo "making $venv with $python; mmcv's operators: $operators"
mkdir -p "$venv"
echo unfinished >"$stamp"
find "$venv/" -mindepth 1 ! -path "$stamp" -delete
"$python" -m venv "$venv"
export PATH=$venv/bin:$PATH
pip install --quiet --disable-pip-version-check "$(pin pip)" "$(pin uv)" ||
  stop "pip could not install uv: its reason stands above"
echo "installing $(pin torch)"
install torch torchvision setuptools wheel ninja psutil packaging
echo "installing $(pin '(onedl-)?mmcv'); the first time, compiling takes minutes"
install_mmcv
echo "installing the OpenMMLab libraries, tools and focal_mm"
if pin onedl-mmcv >/dev/null; then
  install --editable '.[all,dev,docs]'
else
  install --requirements "$pins" --editable .
fi
if pin peft >/dev/null; then
  # Apart, for one test: where transformers, which it needs, can be imported, MMEngine
  # imports it (two seconds), and mmpretrain takes it for one that it can use.
  install --no-deps --target "$venv/peft" accelerate peft tokenizers transformers
fi
# uv keeps what it built of this folder, for whatever PyTorch that was.
"$venv/bin/python" setup.py --quiet build_ext --inplace
python -I -W ignore -c 'import mmcv.ops' ||
  stop "mmcv lacks its operators; remove what uv keeps: uv cache clean mmcv onedl-mmcv"
recipe "$python" >"$stamp"
echo "$venv is ready"
