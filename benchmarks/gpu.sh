#!/usr/bin/env bash
# What to run on a machine with a CUDA GPU: the tests that need one, and the benchmarks on it. It needs no network.
# Usage: benchmarks/gpu.sh [--device cpu] [FOLDER_OF_CIFAR10_JPEGS]    PYTHON=python3.12 to choose an interpreter
# With AIRBENCH=CHECKOUT of KellerJordan/cifar10-airbench, and a folder, its recipe runs beside the original, ten seeds.
# Without a folder, the benchmarks take noise. `--device cpu` runs the same lines at tiny sizes, to show that they run.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
device=cuda
if [ "${1:-}" = --device ]; then device=$2; shift 2; fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" # distcls need not be installed

"$python" benchmarks/requirements.py --device "$device"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export XDG_CACHE_HOME="$scratch/cache"
data=${1:-"$scratch/noise"}
if [ ! -d "$data" ]; then "$python" benchmarks/noise.py "$data"; fi

if [ "$device" = cuda ]; then
	train_loop=(--batch 512 --steps 200)
	deterministic=(--steps 200)
	promises=(--precision bf16 --batch 512)
else
	train_loop=(--batch 16 --steps 2 --turns 1 --models cnn2 --threads 1)
	deterministic=(--quick)
	promises=(--quick --batch 16 --threads 1)
fi
"$python" -m pytest -m gpu tests/gpu
"$python" benchmarks/train_loop.py --device "$device" --data "$data" "${train_loop[@]}"
"$python" benchmarks/deterministic.py --device "$device" --data "$data" --processes 1 "${deterministic[@]}"
"$python" benchmarks/promises.py --device "$device" --data "$data" "${promises[@]}"
if [ "$device" = cuda ] && [ -n "${AIRBENCH:-}" ] && [ -n "${1:-}" ]; then
	"$python" benchmarks/airbench.py --device "$device" --data "$data" --airbench "$AIRBENCH" --seeds {0..9}
fi
