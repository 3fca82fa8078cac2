"""What a run depends on beside its config: threads and kernels, which are set here, and versions, for env.json."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from typing import Any

import torch

from distcls import __version__
from distcls.cluster import slurm
from distcls.config.settings import Config
from distcls.cluster.processes import Processes
from distcls.runs.folder import now


def set_determinism(config: Config, processes: Processes) -> None:
    """Choose threads and kernels so that the same command gives the same bits.

    Deterministic mode has one thread on a CPU by default, because the number decides the order of sums and
    must not follow the number of processes.
    """
    train, on_cpu = config.train, processes.device.type == "cpu"
    shared = slurm.cpus_per_rank() or max((os.cpu_count() or 1) // processes.local_world_size, 1)
    torch.set_num_threads(train.num_threads or (1 if train.deterministic and on_cpu else shared))
    torch.backends.cudnn.benchmark = False  # it would choose kernels by their speed of the moment
    torch.backends.cudnn.deterministic = True
    if train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, hides nothing here


def keep_freed_memory() -> None:
    """Have glibc keep the memory that a step frees: getting it back, page by page, costs 5 % of a step of ResNet-9."""
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**31 - 1)


def environment(processes: Processes) -> dict[str, Any]:
    """What a run depends on beside its config, for env.json."""
    packages = ["torch", "torchvision", "accelerate", "torchmetrics", "numpy", "pillow", "safetensors"]
    return {
        "time": now(),
        "command": sys.argv,
        "world_size": processes.world_size,
        "device": processes.device.type,
        "device_name": torch.cuda.get_device_name() if processes.device.type == "cuda" else platform.machine(),
        "num_threads": torch.get_num_threads(),
        "host": socket.gethostname(),
        "git_commit": _git_commit(),
        "versions": {
            "distcls": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in packages},
        },
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the code in the current folder, if it is a git checkout."""
    try:
        command = ["git", "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
