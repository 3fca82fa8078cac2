"""Collects what a run depends on besides its config, for env.json: versions, device, processes."""

from __future__ import annotations

import importlib.metadata
import platform
import socket
import subprocess
import sys
from typing import Any

import torch

from distcls import __version__
from distcls.cluster.processes import Processes
from distcls.runs.status import now


def environment(processes: Processes) -> dict[str, Any]:
    """Return what a run depends on besides its config."""
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
    """Return the commit of the current folder, or None if it is not a git checkout."""
    try:
        command = ["git", "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
