#!/usr/bin/env bash
# What to run on a machine with a CUDA GPU: the tests that need one, and the benchmarks on it. It needs no network.
# Usage: benchmarks/gpu.sh [--device cpu] [DATA]    PYTHON=python3.12 to choose an interpreter
# DATA is a folder of CIFAR-10 JPEGs, or the .npz file that benchmarks/pack.py makes of it; without it, the benchmarks
# take noise. The parts come in the order of what is most worth knowing. Each has a time limit, about seven minutes in
# all, and one that fails does not stop the others. OUT=FOLDER keeps what each says, and the figures as results.jsonl.
# With AIRBENCH=CHECKOUT of KellerJordan/cifar10-airbench, only its recipe runs, beside the original, ten seeds: at most
# nine minutes.
# `--device cpu` runs the same lines at tiny sizes, to show that they run.
set -euo pipefail
python=${PYTHON:-python3}
device=cuda
if [ "${1:-}" = --device ]; then device=$2; shift 2; fi
if [ -n "${1:-}" ]; then
	[ -e "$1" ] || { echo "$1 does not exist: give a folder of JPEGs or an .npz file, or nothing" >&2; exit 2; }
	set -- "$(realpath "$1")"
fi
if [ -n "${OUT:-}" ]; then mkdir -p "$OUT" && OUT=$(realpath "$OUT"); fi
if [ -n "${AIRBENCH:-}" ]; then AIRBENCH=$(realpath "$AIRBENCH"); fi
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" # distcls need not be installed

"$python" benchmarks/requirements.py --device "$device"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export XDG_CACHE_HOME="$scratch/cache"
out=${OUT:-"$scratch/out"}
mkdir -p "$out"
export BENCHMARK_RESULTS="$out/results.jsonl"
: >"$BENCHMARK_RESULTS"
data=${1:-"$scratch/noise"}
if [ "${data%.npz}" != "$data" ]; then
	"$python" benchmarks/pack.py "$data" "$scratch/images"
	data="$scratch/images"
elif [ -z "${1:-}" ]; then
	"$python" benchmarks/noise.py "$data"
fi

failed=()
run() { # NAME SECONDS COMMAND...: what it says is shown and kept
	local name=$1 seconds=$2
	shift 2
	printf '\n== %s (at most %s s)\n' "$name" "$seconds"
	timeout --kill-after 10 "$seconds" "$@" 2>&1 | tee "$out/$name.txt" || failed+=("$name")
}
bench() { # NAME SECONDS SCRIPT OPTIONS...
	local name=$1 seconds=$2 script=$3
	shift 3
	run "$name" "$seconds" "$python" "benchmarks/$script.py" --device "$device" --data "$data" "$@"
}

if [ "$device" = cuda ]; then
	small=(--batch 512 --steps 100 --turns 5)
	large=(--batch 1024 --steps 40 --turns 5)
	usual=(--batch 512 --steps 20 --turns 3)
	deterministic=(--steps 100)
	promises=(--precision bf16 --batch 512 --turns 10)
	epochs=8 seeds=({0..9})
else
	small=(--batch 16 --steps 2 --turns 1 --threads 1 --models cnn2)
	large=(--batch 4 --steps 1 --turns 1 --threads 1)
	usual=(--batch 16 --steps 1 --turns 1 --threads 1)
	deterministic=(--quick)
	promises=(--quick --batch 16 --threads 1)
	epochs=1 seeds=(0)
fi
lightning=()
if "$python" -c 'import lightning' 2>/dev/null; then lightning=(--lightning); fi

if [ -n "${AIRBENCH:-}" ]; then
	bench airbench 540 airbench --airbench "$AIRBENCH" --epochs "$epochs" --seeds "${seeds[@]}"
else
	run tests 120 "$python" -m pytest -m "gpu or not gpu" tests/gpu
	bench resnet18 60 train_loop --models torchvision/resnet18 --only-bare "${large[@]}" "${lightning[@]}"
	bench loop 90 train_loop --only-bare "${small[@]}"
	bench promises 60 promises "${promises[@]}"
	bench accelerate 60 train_loop --models cnn2 "${usual[@]}" "${lightning[@]}"
	bench deterministic 60 deterministic --processes 1 "${deterministic[@]}"
fi
printf '\n== table\n'
"$python" benchmarks/table.py "$BENCHMARK_RESULTS" | tee "$out/table.md"
if [ ${#failed[@]} -gt 0 ]; then
	echo "failed or out of time: ${failed[*]}" >&2
	exit 1
fi
