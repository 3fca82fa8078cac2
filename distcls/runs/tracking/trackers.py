"""Sends each row of numbers to metrics.csv and to the trackers, which are made again from it after a restart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distcls.errors import UsageError
from distcls.runs.tracking.metrics_file import MetricsFile
from distcls.runs.tracking.tensorboard import TensorBoard

TRACKERS = {"tensorboard": TensorBoard}
"""What `run.trackers` can name: classes with the methods of TensorBoard, called with the run folder."""


class Tracker:
    """Sends each row of numbers to metrics.csv and to the trackers. Only the main process makes one.

    Raises UsageError for a tracker that is not in TRACKERS, DiskError where metrics.csv cannot be written.
    """

    def __init__(self, run_dir: str | Path, trackers: list[str]) -> None:
        check_trackers(trackers)
        self.metrics = MetricsFile(Path(run_dir) / "metrics.csv")
        self._trackers = [TRACKERS[name](Path(run_dir)) for name in trackers]

    def log(self, row: Mapping[str, Any]) -> None:
        """Keep one row of named numbers, as MetricsFile.append takes it."""
        logged = self.metrics.append(row)
        for tracker in self._trackers:
            tracker.log(logged)

    def truncate(self, step: int, evaluated_step: int) -> None:
        """Forget the rows after `step`, evaluations after `evaluated_step`, and the test's, which comes last.

        In metrics.csv and in the trackers.
        """
        rows = self.metrics.truncate(step, evaluated_step)
        for tracker in self._trackers:
            tracker.rewrite(rows)

    def sync(self) -> None:
        """See that metrics.csv is on the disk, before a checkpoint after which it is never written again."""
        self.metrics.sync()

    def close(self) -> None:
        """Write what is still buffered."""
        for tracker in self._trackers:
            tracker.close()


def check_trackers(names: list[str]) -> None:
    """Raise UsageError where a name of `run.trackers` is not known."""
    for name in names:
        if name not in TRACKERS:
            raise UsageError(
                f"run.trackers names {name!r}, which is not a tracker. Known: {', '.join(TRACKERS)}. "
                "metrics.csv is always written; run.trackers=[] asks for nothing else."
            )
