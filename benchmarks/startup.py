"""How long one waits: for help, for a config error, and from the launch to the first training step.

The peer of the last is the shortest script that takes one step with torch and accelerate, on random images:
what it takes, no trainer on top of them can avoid. Both are processes of their own, started in turns; the
disk cache is warm. The first step of distcls is seen in its status.json.

    python benchmarks/startup.py
    python benchmarks/startup.py --quick
    python benchmarks/startup.py --imports     # also: what is imported before the first step, slowest first
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from side_by_side import cifar_folder, conditions

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "-m", "distcls"]
LATE = ("torchmetrics", "torchvision", "matplotlib", "tensorboard", "sklearn")
"""Packages that take seconds to import, and that the first step does not need."""

SHORTEST = """
import torch
from accelerate import Accelerator
accelerator = Accelerator(cpu=True)
net = torch.nn.Sequential(
    torch.nn.Conv2d(3, 32, 3, padding=1), torch.nn.BatchNorm2d(32), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
    torch.nn.Conv2d(32, 64, 3, padding=1), torch.nn.BatchNorm2d(64), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
    torch.nn.Flatten(), torch.nn.Linear(64 * 8 * 8, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10),
)
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
net, optimizer = accelerator.prepare(net, optimizer)
loss = torch.nn.functional.cross_entropy(net(torch.randn(128, 3, 32, 32)), torch.randint(0, 10, (128,)))
accelerator.backward(loss)
optimizer.step()
print(loss.item(), flush=True)
"""


def time_command(words: Sequence[str], expected_code: int) -> float:
    """Seconds from start to end."""
    start = time.perf_counter()
    code = subprocess.run(words, cwd=ROOT, capture_output=True, check=False).returncode
    seconds = time.perf_counter() - start
    assert code == expected_code, f"{words} ended with {code}"
    return seconds


def processor_seconds() -> float:
    """Of all processes that were started from here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def time_shortest() -> float:
    """Seconds until the shortest script has taken its step."""
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", SHORTEST], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline(), "the script took no step"
        return time.perf_counter() - start


def train_command(data: Path, run_dir: str) -> list[str]:
    settings = [
        f"run.dir={run_dir}",
        "run.device=cpu",
        "train.log_every=1",
        "train.num_epochs=null",
        "train.num_steps=100000",
    ]
    return [*COMMAND, "train", "-c", "configs/cifar10_cnn.yaml", "--data", str(data), *settings]


def time_first_step(data: Path, folder: str, python_options: Sequence[str] = ()) -> tuple[float, str]:
    """Seconds until a step is done, and what was written to stderr. The run is killed then."""
    with tempfile.TemporaryDirectory(dir=folder) as run_dir:
        log = Path(run_dir) / "stderr"
        words = train_command(data, run_dir)
        with log.open("wb") as stderr:
            start = time.perf_counter()
            process = subprocess.Popen(
                [words[0], *python_options, *words[1:]], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stderr
            )
            while not _has_taken_a_step(Path(run_dir)):
                assert process.poll() is None, log.read_text()
                time.sleep(0.005)
            seconds = time.perf_counter() - start
            process.kill()
            process.wait()
        return seconds, log.read_text(errors="replace")


def _has_taken_a_step(run_dir: Path) -> bool:
    try:
        return json.loads((run_dir / "status.json").read_text())["step"] >= 1
    except OSError:
        return False


def report(name: str, seconds: Sequence[float], target: str) -> None:
    print(f"{name:56}{min(seconds):>8.2f}{statistics.median(seconds):>8.2f}   {target}", flush=True)


def _turn(data: Path, folder: str) -> tuple[float, float, float, float]:
    """Seconds of distcls and of its peer, by the clock and of processor time."""
    used = [processor_seconds()]
    own, _ = time_first_step(data, folder)
    used.append(processor_seconds())
    peer = time_shortest()
    used.append(processor_seconds())
    return own, peer, used[1] - used[0], used[2] - used[1]


def print_imports(data: Path, folder: str) -> None:
    """Packages imported before the first step was over, from `python -X importtime`."""
    _, log = time_first_step(data, folder, ["-X", "importtime"])
    lines = re.findall(r"import time:\s*(\d+) \|\s*(\d+) \|( +)(\S+)", log)
    own: dict[str, int] = {}
    for self_time, _, _, module in lines:
        parts = module.split(".")
        package = ".".join(parts[:2]) if parts[0] in ("torch", "distcls") else parts[0]
        own[package] = own.get(package, 0) + int(self_time)
    print("\nimported before the first step, ms of their own (the measurement itself slows imports down)")
    for package, micros in sorted(own.items(), key=lambda item: -item[1])[:25]:
        print(f"  {package:30}{micros / 1000:>8.0f}")
    imported = {module for *_, module in lines}
    early = [name for name in LATE if name in imported]
    print(f"  needless: {', '.join(early) or 'none of ' + ', '.join(LATE)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 JPEGs; default: the zip beside the project")
    parser.add_argument("--turns", type=int, default=10, help="half as many of the first step")
    parser.add_argument("--imports", action="store_true", help="also show what is imported before the first step")
    parser.add_argument("--quick", action="store_true", help="two turns")
    options = parser.parse_args()
    turns = 2 if options.quick else options.turns
    data = cifar_folder(options.data).resolve()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    print(conditions())
    print(f"{'seconds':56}{'best':>8}{'median':>8}   target")
    report("distcls --help", [time_command([*COMMAND, "--help"], 0) for _ in range(turns)], "< 0.3")
    mistake = [*COMMAND, "train", "optim.lrr=1"]
    report("a config error", [time_command(mistake, 2) for _ in range(turns)], "< 0.3")
    report("an empty Python, for comparison", [time_command([sys.executable, "-c", ""], 0) for _ in range(turns)], "")
    with tempfile.TemporaryDirectory() as folder:
        time_first_step(data, folder)  # decodes the images, where no run has yet
        turns_of_both = [_turn(data, folder) for _ in range(max(turns // 2, 1))]
        own, peer, own_cpu, peer_cpu = zip(*turns_of_both, strict=True)
        report("launch to first step, distcls train", own, "")
        report("launch to first step, torch and accelerate", peer, "")
        report("difference, turn by turn", [a - b for a, b in zip(own, peer, strict=True)], "<= 1.5")
        report("processor time, distcls train (and what it does until killed)", own_cpu, "")
        report("processor time, torch and accelerate", peer_cpu, "")
        if options.imports:
            print_imports(data, folder)


if __name__ == "__main__":
    main()
