#!/usr/bin/env bash
# What to run on a machine with a CUDA GPU: the tests that need one, and the benchmarks on it.
# Usage: benchmarks/gpu.sh [FOLDER_OF_CIFAR10_JPEGS]    PYTHON=python3.12 to choose an interpreter
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
data=()
if [ $# -gt 0 ]; then data=(--data "$1"); fi

"$python" -c 'import torch; assert torch.cuda.is_available(), "torch finds no CUDA GPU here"; print(torch.cuda.get_device_name())'
"$python" -m pytest -m gpu
"$python" benchmarks/train_loop.py --device cuda --batch 512 --steps 200 "${data[@]}"
"$python" benchmarks/deterministic.py --device cuda --processes 1 --steps 200 "${data[@]}"
