"""What a data set costs each process: private memory of four processes training on CIFAR-10, against 1,000 images.

Decoded images lie in one file that all processes of a machine map, so they should count once, in the page
cache. Private memory is Private_Clean + Private_Dirty of /proc/PID/smaps_rollup (Linux): what would be free
if this process ended. A page of the file that only one process has touched so far is private and clean.

    python benchmarks/memory.py
    python benchmarks/memory.py --quick      # two processes, one turn
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import cifar_folder, conditions

ROOT = Path(__file__).resolve().parents[1]
IMAGES_A_CLASS = {"train": 80, "test": 20}
"""Of the small set: 1,000 images of ten classes."""

Memory = dict[str, float]
"""Megabytes (10^6 bytes) by the name of smaps_rollup."""


def start(data: Path, run_dir: Path, num_processes: int) -> list[subprocess.Popen]:
    """`distcls train` on some processes, with the environment that torchrun would give them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        *(sys.executable, "-m", "distcls", "train", "-c", "configs/cifar10_cnn.yaml", "--data", str(data)),
        *("run.device=cpu", f"run.dir={run_dir}", "train.num_epochs=null", "train.num_steps=1000000"),
        *("train.eval_every=1000000 steps", "train.checkpoint_every=1000000 steps", "run.trackers=[]"),
    ]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    shared |= {"WORLD_SIZE": str(num_processes), "LOCAL_WORLD_SIZE": str(num_processes), "TORCH_CPP_LOG_LEVEL": "ERROR"}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_processes)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": (run_dir.parent / "stderr").open("ab")}
    return [subprocess.Popen(words, cwd=ROOT, env={**os.environ, **shared, **rank}, **quiet) for rank in ranks]


def memory_in_training(data: Path, folder: Path, num_processes: int, steps: int) -> list[Memory]:
    """Memory of each process after so many steps. They are killed then."""
    run_dir = folder / f"{data.parent.name}-{data.name}"
    processes = start(data, run_dir, num_processes)
    try:
        while _steps_done(run_dir) < steps:
            if any(process.poll() is not None for process in processes):
                raise SystemExit(f"a process ended:\n{(folder / 'stderr').read_text()[-2000:]}")
            time.sleep(0.1)
        return [_memory(process.pid) for process in processes]
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
        shutil.rmtree(run_dir)


def _steps_done(run_dir: Path) -> int:
    try:
        return json.loads((run_dir / "status.json").read_text())["step"]
    except OSError:
        return 0


def _memory(pid: int) -> Memory:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    values = {name: int(rest.split()[0]) * 1024 / 1e6 for name, rest in (line.split(":") for line in lines)}
    private = values["Private_Clean"] + values["Private_Dirty"]
    return {"private": private, "clean": values["Private_Clean"], "resident": values["Rss"]}


def small_copy(data: Path, folder: Path) -> Path:
    """A folder with the first images of each class."""
    for split, count in IMAGES_A_CLASS.items():
        for source in sorted(path for path in (data / split).iterdir() if path.is_dir()):
            target = folder / "small" / split / source.name
            target.mkdir(parents=True)
            for image in sorted(source.iterdir())[:count]:
                shutil.copy(image, target)
    return folder / "small"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 JPEGs; default: the zip beside the project")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200, help="after which memory is read")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="two processes, 30 steps, one turn")
    options = parser.parse_args()
    if options.quick:
        options.processes, options.steps, options.turns = 2, 30, 1
    data = cifar_folder(options.data).resolve()
    print(conditions())
    print(f"{options.processes} processes after {options.steps} steps, MB each")
    print(
        f"{'':18}{'private':>9}{'of it clean':>13}{'resident':>10}   private more than with 1,000 images (target < 20)"
    )
    with tempfile.TemporaryDirectory() as folder:
        small = small_copy(data, Path(folder))
        for _ in range(options.turns):
            few = memory_in_training(small, Path(folder), options.processes, options.steps)
            many = memory_in_training(data, Path(folder), options.processes, options.steps)
            print_row("1,000 images", few, "")
            more = [a["private"] - b["private"] for a, b in zip(many, few, strict=True)]
            print_row("CIFAR-10", many, " ".join(f"{megabytes:+.1f}" for megabytes in more))


def print_row(name: str, measured: list[Memory], more: str) -> None:
    """The mean over the processes."""
    private, clean, resident = (statistics.mean(m[key] for m in measured) for key in ("private", "clean", "resident"))
    print(f"{name:18}{private:>9.1f}{clean:>13.1f}{resident:>10.1f}   {more}", flush=True)


if __name__ == "__main__":
    main()
