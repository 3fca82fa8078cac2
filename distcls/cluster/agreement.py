"""Settings, versions and checkpoints must be the same on all machines of a run: compared before training.

Each function is called by all processes. Images are compared where they are read (data/__init__.py).
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
"""Settings that the processes of a run need not have in common."""


def refuse_differences(config: Config, processes: Processes) -> None:
    """Each machine may have files of its own. Raises UsageError where settings or versions are not the same."""
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
                f"process {rank} ({host}) was started otherwise than process 0 ({main_host}):\n  "
                + "\n  ".join(lines)
                + "\nGive all machines the same command, config file and versions."
            )


def refuse_to_begin_anew(step: int, run_dir: Path, processes: Processes) -> None:
    """Raises UsageError where another machine has more of this run than the one that has the run folder now.

    step: of the newest checkpoint that this process sees.
    """
    steps = processes.from_all(step)
    if max(steps) > steps[0]:
        rank = steps.index(max(steps))
        raise UsageError(
            f"process {rank} has step {steps[rank]:,} of this run in {run_dir} on its machine, and process 0, "
            f"which keeps the run, has {f'step {steps[0]:,}' if steps[0] else 'none'}. Make that machine the head, "
            "or copy the folder to this one."
        )
