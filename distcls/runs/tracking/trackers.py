"""Sends each row of numbers to metrics.csv and to the trackers, which are rebuilt from it after a restart."""

from __future__ import annotations

import importlib.util
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distcls.cluster import signals
from distcls.errors import UsageError
from distcls.runs.tracking.metrics_file import MetricsFile
from distcls.runs.tracking.sender import SERVICES, problems, start_sender
from distcls.runs.tracking.tensorboard import TensorBoard

TRACKERS = {"tensorboard": TensorBoard}
"""Trackers that are files in the run folder, written while it trains: classes with TensorBoard's methods."""

SECONDS_TO_WAIT = 60.0
"""How long a finished run waits for what is left to send: the end of its container or Slurm job ends the senders."""


class Tracker:
    """Sends each row of numbers to metrics.csv and to the trackers. Only the main process creates one.

    Raises UsageError for a tracker that is not in TRACKERS, DiskError if metrics.csv cannot be written.
    """

    def __init__(self, run_dir: str | Path, trackers: list[str]) -> None:
        check_trackers(trackers)
        self._run_dir, self._names = Path(run_dir), trackers
        self.metrics = MetricsFile(Path(run_dir) / "metrics.csv")
        self._trackers = [TRACKERS[name](Path(run_dir)) for name in trackers if name in TRACKERS]
        self._senders: dict[str, subprocess.Popen] = {}

    def log(self, row: Mapping[str, Any]) -> None:
        """Record one row of named numbers, as MetricsFile.append takes it."""
        logged = self.metrics.append(row)
        for tracker in self._trackers:
            tracker.log(logged)

    def start_senders(self) -> None:
        """Start the processes that send rows to services."""
        for name in self._names:
            if name in SERVICES and name not in self._senders:
                self._senders[name] = start_sender(self._run_dir, name)

    def truncate(self, step: int, evaluated_step: int) -> None:
        """Remove the rows after `step`, evaluations after `evaluated_step`, and the test's, which comes last.

        This affects metrics.csv and the trackers.
        """
        rows = self.metrics.truncate(step, evaluated_step)
        for tracker in self._trackers:
            tracker.rewrite(rows)

    def sync(self) -> None:
        """Force metrics.csv to disk, before a checkpoint after which these rows are never written again."""
        self.metrics.sync()

    def close(self) -> None:
        """Write what is still buffered, and let the processes that send rows come to their end by themselves."""
        for tracker in self._trackers:
            tracker.close()
        for sender in self._senders.values():
            assert sender.stdin is not None
            sender.stdin.close()

    def sending(self) -> list[str]:
        """Return the services that a sender is still working on, except those whose last attempt failed."""
        running = [name for name, sender in self._senders.items() if sender.poll() is None]
        return [name for name in running if not problems(self._run_dir, [name])]

    def wait(self) -> list[str]:
        """Wait for what is left to send, after `close`; return the services that do not have all of it.

        This takes SECONDS_TO_WAIT at most, and a stop signal ends it.
        """
        end = time.monotonic() + SECONDS_TO_WAIT
        while self.sending() and time.monotonic() < end and signals.received() is None:
            time.sleep(0.1)
        return [name for name, sender in self._senders.items() if sender.poll() != 0]


def check_trackers(names: list[str]) -> None:
    """Raise UsageError if a name in `run.trackers` is unknown."""
    for name in names:
        if name not in TRACKERS and name not in SERVICES:
            raise UsageError(
                f"run.trackers names {name!r}, which is not a tracker: give {', '.join([*TRACKERS, *SERVICES])}. "
                "metrics.csv is always written; run.trackers=[] writes nothing else."
            )
        if name in SERVICES and importlib.util.find_spec(name) is None:
            raise UsageError(f"run.trackers names {name}, which is not installed: pip install {name}, or leave it out.")
