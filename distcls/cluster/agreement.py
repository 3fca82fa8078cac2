"""Checks before training that settings, versions and checkpoints are the same on all machines of a run.

All processes call each function. Images are compared where they are read (data/build.py).
"""

from __future__ import annotations

import socket
from pathlib import Path

import torch

from distcls import __version__
from distcls.cluster.processes import Processes
from distcls.config.differences import differences
from distcls.config.settings import Config
from distcls.errors import UsageError

OWN_OF_A_MACHINE = {
    *("data.root", "data.download", "data.cache", "data.disk_cache", "data.cache_dir", "data.workers"),
    *("run.dir", "run.name"),
}
"""Settings that may differ between the processes of a run."""


def refuse_differences(config: Config, processes: Processes) -> None:
    """Raise UsageError if settings or versions differ: each machine may have its own files."""
    versions = {"distcls": __version__, "torch": torch.__version__}
    seen = processes.from_all((config, versions, socket.gethostname()))
    main_config, main_versions, main_host = seen[0]
    for rank, (their_config, their_versions, host) in enumerate(seen):
        lines = [
            f"{name}: {version} -> {their_versions[name]}"
            for name, version in main_versions.items()
            if version != their_versions[name]
        ]
        lines += [
            str(difference)
            for difference in differences(main_config, their_config, everything=True)
            if difference.path not in OWN_OF_A_MACHINE
        ]
        if lines:
            raise UsageError(
                f"process {rank} ({host}) was started differently from process 0 ({main_host}):\n  "
                + "\n  ".join(lines)
                + "\nGive all machines the same command, config file and versions."
            )


def refuse_to_begin_anew(step: int, run_dir: Path, processes: Processes) -> None:
    """Raise UsageError if another machine has a later checkpoint than process 0, which keeps the run folder.

    step: of the newest checkpoint that this process sees.
    """
    steps = processes.from_all(step)
    if max(steps) > steps[0]:
        rank = steps.index(max(steps))
        raise UsageError(
            f"process {rank} has step {steps[rank]:,} of this run in {run_dir} on its machine, but process 0, "
            f"which keeps the run, has {f'step {steps[0]:,}' if steps[0] else 'none'}. Make that machine the head, "
            "or copy the folder to the machine of process 0."
        )
