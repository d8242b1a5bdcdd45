#!/usr/bin/env bash
# Compiles everything of the CUDA build, kernels included, on a machine that has neither a GPU nor CUDA: the compiler and the
# headers come from PyPI. It does not link, and runs nothing.
#
#     deploy/check-cuda.sh [FOLDER]
#
# FOLDER keeps the packages (1 GB) and the build between runs; by default target/cuda.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-target/cuda}
mkdir -p "$folder"
folder=$(realpath "$folder")

if [ ! -x "$folder/venv/bin/pip" ]; then
    python3 -m venv "$folder/venv"
fi
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    nvidia-cuda-nvcc==13.0.* nvidia-cuda-crt==13.0.* nvidia-cuda-runtime==13.0.* nvidia-cuda-cccl==13.0.* \
    nvidia-nvvm==13.0.* nvidia-curand nvidia-cublas==13.0.* nvidia-cuda-nvrtc==13.0.*

# The packages unpack side by side, as the toolkit does.
CUDA_HOME=$(echo "$folder"/venv/lib/python3*/site-packages/nvidia/cu13)
export CUDA_HOME CUDA_PATH=$CUDA_HOME CUDA_ROOT=$CUDA_HOME CUDA_TOOLKIT_ROOT_DIR=$CUDA_HOME
export PATH=$CUDA_HOME/bin:$PATH
# The kernels are compiled for one generation (Hopper); a real build takes that of the machine's GPU.
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90} CARGO_TARGET_DIR=$folder/build
nvcc --version | tail -2
cargo check --features cuda --all-targets
