"""One codebase: the same YAML through every way to start it, with real launchers and the world size asserted."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ledger
import pytest
from ranks import read_json

YAML = """
model: {name: cnn2, args: {dropout: 0.3}}
train: {num_steps: 12, global_batch_size: 32, micro_batch_size: 8, deterministic: true, num_threads: 1}
run: {trackers: []}
"""

LAUNCHERS = {
    "distcls": (1, [str(Path(sys.executable).with_name("distcls")), "train"]),
    "python -m": (1, [sys.executable, "-m", "distcls.train"]),
    "torchrun": (
        2,
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m", "distcls.train"],
    ),
    "accelerate": (
        2,
        [
            *[sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"],
            *["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"],
            *["-m", "distcls.train"],
        ],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """launcher -> SHA-256 of what the run ended with."""
    folder = tmp_path_factory.mktemp("launchers")
    (folder / "small.yaml").write_text(YAML)
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "CUDA_VISIBLE_DEVICES": "", "XDG_CACHE_HOME": str(folder)}
    started: dict[str, subprocess.Popen] = {}
    logs = {name: folder / f"{name}.log" for name in LAUNCHERS}
    runs = {name: folder / "runs" / name.replace(" ", "") for name in LAUNCHERS}
    end = time.monotonic() + 240
    try:
        for name, (_, command) in LAUNCHERS.items():  # all at once: most of their time is imports, each on one core
            words = [*command, "-c", "small.yaml", "--name", runs[name].name, "optim.lr=3e-3"]
            with logs[name].open("w") as log:
                started[name] = subprocess.Popen(
                    words, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
                )
        for name, process in started.items():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(end - time.monotonic(), 0))
            assert process.returncode == 0, f"{name}: {process.returncode}\n{logs[name].read_text()}"
    finally:
        for process in started.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    for name, (world_size, _) in LAUNCHERS.items():
        assert read_json(runs[name] / "env.json")["world_size"] == world_size
    return {name: ledger.digest(run_dir, 12) for name, run_dir in runs.items()}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", list(LAUNCHERS)[1:])
def test_every_launcher_trains_the_same_weights(weights, name):
    assert weights[name] == weights["distcls"]
