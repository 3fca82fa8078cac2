"""What the same bits on any number of processes cost: step time of train.deterministic=true against false.

Each process holds two runs over one process group, one of each mode, and they take turns. All processes have
one thread in both modes. The time of a turn is that of the slowest process; processor time, which other
people's load hardly moves, is the mean over the processes, and holds no waiting for one another.

    python benchmarks/deterministic.py               # four processes
    python benchmarks/deterministic.py --quick
    python benchmarks/deterministic.py --processes 1 --device cuda
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from side_by_side import Seconds, Timings, alternate, cifar_folder, conditions, note, ratio

ROOT = Path(__file__).resolve().parents[1]

CASES = [("cnn2", 128, 32), ("cnn2", 256, 32), ("resnet9", 64, 16), ("resnet9", 128, 16)]
"""Model, global batch, micro-batch: on four processes without and with two accumulation steps."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 JPEGs; default: the zip beside the project")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20, help="timed steps a turn (a tenth of it for resnet9 on a CPU)")
    parser.add_argument("--quick", action="store_true", help="three short turns of cnn2")
    options = parser.parse_args()
    if "BENCHMARK_FOLDER" in os.environ:
        measure(options)
        return
    options.data = cifar_folder(options.data)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, __file__, *sys.argv[1:], "--data", str(options.data)]
        shared = {"BENCHMARK_FOLDER": folder, "TORCH_CPP_LOG_LEVEL": "ERROR", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        running = [
            subprocess.Popen(words, env={**os.environ, **shared, **rank_environment(rank, options.processes, port)})
            for rank in range(options.processes)
        ]
        sys.exit(wait_for(running))


def rank_environment(rank: int, num_processes: int, port: int) -> dict[str, str]:
    """What torchrun would set; nothing for a single process, which needs no group."""
    if num_processes == 1:
        return {}
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_processes, "LOCAL_WORLD_SIZE": num_processes}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    return {name: str(value) for name, value in {**numbers, **address}.items()}


def wait_for(processes: list[subprocess.Popen]) -> int:
    """0 when all have ended well. Where one fails, the others would wait for it: they are ended."""
    try:
        while any(process.poll() is None for process in processes):
            if any(process.returncode for process in processes):
                return 1
            time.sleep(0.1)
        return max(abs(process.returncode) for process in processes)
    finally:
        for process in processes:
            process.kill()


def measure(options: argparse.Namespace) -> None:
    """Time both modes in each case; the main process prints."""
    from distcls.cluster.processes import Processes

    processes = Processes(options.device)
    assert processes.world_size == options.processes
    if processes.is_main:
        print(conditions())
        print(f"{options.processes} {options.device} processes, one thread each, slowest process, median over turns")
        print(f"{'model':9}{'batch':>6}{'micro':>6}{'fast ms':>10}{'exact ms':>10}   exact over fast")
    for model, batch, micro in CASES:
        if batch % (micro * options.processes) or (options.quick and model != "cnn2"):
            continue
        slow = model == "resnet9" and options.device == "cpu"
        turns, steps = (3, 6) if options.quick else (options.turns, options.steps)
        timings = compare(model, batch, micro, options, processes, turns, max(steps // 10, 1) if slow else steps)
        if processes.is_main:
            print_row(f"{model:9}{batch:>6}{micro:>6}", timings["fast"], timings["exact"])
    processes.end()


def print_row(case: str, fast: Seconds, exact: Seconds) -> None:
    times = ratio(exact.wall, fast.wall)
    note("deterministic", " ".join(case.split()), "exact over fast, seconds a step", "×", times)
    by_clock = "{:.3f} ({:.3f} to {:.3f})".format(*times)
    by_cpu = "{:.3f} ({:.3f} to {:.3f}) by cpu time".format(*ratio(exact.cpu, fast.cpu))
    fast_ms, exact_ms = (1000 * statistics.median(side.wall) for side in (fast, exact))
    print(f"{case}{fast_ms:>10.1f}{exact_ms:>10.1f}   {by_clock}, {by_cpu}", flush=True)


def compare(
    model: str, batch: int, micro: int, options: argparse.Namespace, processes, turns: int, steps: int
) -> Timings:
    """Seconds per step of both modes, of the slowest process in each turn."""
    import torch
    import torch.distributed as dist

    def synchronize() -> None:
        processes.wait_for_everyone()
        if processes.device.type == "cuda":
            torch.cuda.synchronize()

    sides = {
        name: training_steps(name, exact, model, batch, micro, options, processes)
        for name, exact in (("fast", False), ("exact", True))
    }
    timings = alternate(sides, turns, steps, lead_in=2, synchronize=synchronize)
    if processes.world_size > 1:
        for seconds in timings.values():
            wall, cpu = (
                torch.tensor(s, dtype=torch.float64, device=processes.device) for s in (seconds.wall, seconds.cpu)
            )
            dist.all_reduce(wall, dist.ReduceOp.MAX)
            dist.all_reduce(cpu)
            seconds.wall, seconds.cpu = wall.tolist(), (cpu / processes.world_size).tolist()
    return timings


def training_steps(
    name: str, exact: bool, model: str, batch: int, micro: int, options: argparse.Namespace, processes
) -> Iterator[None]:
    """The steps of one run. Its batches are made beforehand, because both modes take the same."""
    import torch

    from distcls.cluster.kernels import choose_kernels
    from distcls.config.loading import load_config
    from distcls.data.augmentation.batchwise import Augmentation
    from distcls.data.augmentation.preprocessing import Normalize
    from distcls.data.build import build_data
    from distcls.data.loading.loader import train_batches
    from distcls.plan.batches import plan_batches
    from distcls.runs.folder import RunFolder
    from distcls.training.acceleration import Acceleration
    from distcls.training.late_numbers import LateNumbers
    from distcls.training.objectives.build import build_objective
    from distcls.training.objectives.objective import describe_task
    from distcls.training.state import build_state
    from distcls.training.step import TrainStep

    config = load_config(
        ROOT / "configs" / "cifar10_cnn.yaml",
        [
            f"data.root={options.data}", f"model.name={model}", "model.args={}", f"run.device={options.device}",
            f"train.global_batch_size={batch}", f"train.micro_batch_size={micro}", "train.num_threads=1",
            "train.num_epochs=null", "train.num_steps=1000", f"train.deterministic={str(exact).lower()}",
            f"run.dir={os.environ['BENCHMARK_FOLDER']}/{name}-{model}-{batch}",
        ],
    )  # fmt: skip
    run = RunFolder(config, processes, name)
    config = run.config
    data = build_data(config.data, processes)
    plan = plan_batches(config.train, len(data.train), processes.rank, processes.world_size)
    acceleration = Acceleration(config.train, processes.device)
    device, dtype = acceleration.device, acceleration.dtype
    normalize = Normalize.build(config.augment.normalize, device, dtype, config.model.channels_last)
    augment = Augmentation(normalize, len(data.class_names))
    objective = build_objective(config.objective, describe_task(config, data, plan, augment, device, dtype))
    state = build_state(config, data, objective, acceleration, run)
    train_step = TrainStep(config, objective, state, plan, acceleration)
    eight = dataclasses.replace(plan, total_steps=8)
    batches = list(train_batches(data.train, eight, config.augment, device, workers=0, start=0))
    late = LateNumbers(device)
    for micro_batches in itertools.cycle(batches):
        # The modes differ in global settings of torch too, which belong to their price.
        torch.use_deterministic_algorithms(exact)
        choose_kernels(config.train, processes)
        late.ask()
        late.begin()
        numbers = train_step(micro_batches)
        assert numbers is not None
        late.put(state.step, numbers)  # the finiteness check, one step late
        yield


if __name__ == "__main__":
    main()
