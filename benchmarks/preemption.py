"""What readiness for a kill costs: a save while training goes on, the vote of each step, and the way out.

    python benchmarks/preemption.py

- save: a state of 50 MB (a linear layer and its Adam momenta), written by the thread while the loop takes steps,
  against waiting for the same write. The stall is what the loop loses: the call itself, and how much longer the
  steps take while the thread writes.
- vote: the time that `asked_to_stop` takes at a step, on two processes whose steps take 20 ms.
- exit: from SIGTERM to the end of the process, for ResNet-18 on 32 x 32 images, against the time of one step.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from side_by_side import conditions

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--voter", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.voter:
        return vote()
    print(conditions())
    save(options.turns)
    votes()
    leave()


def save(turns: int) -> None:
    import torch

    from distcls.config.settings import TrainConfig
    from distcls.training.checkpoint import Checkpoints
    from distcls.training.state import TrainState
    from distcls.training.statistics import BatchNormStatistics

    torch.set_num_threads(1)
    module = torch.nn.Linear(2048, 2048)
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    state = TrainState(module, module, optimizer, BatchNormStatistics(module))
    images = torch.randn(256, 2048)

    def step() -> None:
        module.zero_grad()
        module(images).square().mean().backward()
        optimizer.step()
        state.position.step += 1

    def steps(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            step()
        return time.perf_counter() - start

    with tempfile.TemporaryDirectory() as folder:
        processes = SimpleNamespace(is_main=True, moved=lambda: None)
        run = SimpleNamespace(dir=Path(folder), processes=processes, tracker=None, saved_in=lambda seconds: None)
        checkpoints = Checkpoints(run, TrainConfig(keep_checkpoints=2))  # type: ignore[arg-type]
        steps(20)
        checkpoints.save(state)
        checkpoints.raise_errors(wait=True)
        waited, called, lost = [], [], []
        for _ in range(turns):
            steps(1)
            start = time.perf_counter()
            checkpoints.save(state)
            checkpoints.raise_errors(wait=True)
            waited.append(time.perf_counter() - start)
            count = max(20, int(2 * waited[-1] / (steps(10) / 10)))
            plain = steps(count)
            start = time.perf_counter()
            checkpoints.save(state)
            called.append(time.perf_counter() - start)
            steps(count)
            busy = time.perf_counter() - start
            checkpoints.raise_errors(wait=True)
            lost.append(busy - plain)
    whole, call, loss = (statistics.median(seconds) for seconds in (waited, called, lost))
    print(f"save of 50 MB: waiting for it {whole * 1e3:.0f} ms; in the thread the call takes {call * 1e3:.1f} ms "
          f"({call / whole:.1%}), and the loop loses {loss * 1e3:.1f} ms in all ({loss / whole:.1%})")  # fmt: skip


def votes() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    voters = [
        subprocess.Popen(
            [sys.executable, __file__, "--voter"],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    for voter in voters:
        voter.wait(120)


def vote() -> None:
    from distcls.cluster.processes import Processes

    processes = Processes("cpu")
    taken = []
    for _ in range(300):
        end = time.perf_counter() + 0.02
        while time.perf_counter() < end:
            pass
        start = time.perf_counter()
        processes.asked_to_stop()
        taken.append(time.perf_counter() - start)
    if processes.is_main:
        quartiles = [f"{seconds * 1e3:.3f}" for seconds in statistics.quantiles(taken[20:], n=4)]
        print(f"vote on 2 processes: {' / '.join(quartiles)} ms (quartiles) in a step of 20 ms")
    processes.end()


def leave() -> None:
    with tempfile.TemporaryDirectory() as folder:
        words = ["data.name=digits", "data.image_size=32", "model.name=torchvision/resnet18", "run.dir=run"]
        words += ["train.checkpoint_every=10000 steps", "train.eval_every=10000 steps", "train.num_steps=10000"]
        process = subprocess.Popen([sys.executable, "-m", "distcls.train", *words], cwd=folder,
                                   env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)  # fmt: skip
        status = Path(folder, "run", "status.json")
        seen: dict[int, float] = {}
        limit = time.monotonic() + 180
        while len(seen) < 12 and time.monotonic() < limit:
            if status.exists():
                step = json.loads(status.read_text())["step"]
                seen.setdefault(step, time.monotonic())
            time.sleep(0.005)
        numbers = sorted(seen)[2:]
        one = (seen[numbers[-1]] - seen[numbers[0]]) / (numbers[-1] - numbers[0])
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        taken = time.monotonic() - start
    print(f"exit of ResNet-18: {taken:.2f} s from SIGTERM to exit code {code}, with a step of {one:.2f} s")


if __name__ == "__main__":
    main()
