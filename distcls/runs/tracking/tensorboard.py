"""Copies the rows of metrics.csv to TensorBoard's event files."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

from distcls.runs.tracking.metrics_file import Row
from distcls.runs.tracking.rows import numbers_of


class TensorBoard:
    """Event files in run_dir/tb; view them with `tensorboard --logdir runs`."""

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / "tb"
        self._writer: Any = None

    def log(self, row: Row) -> None:
        """Add the numbers of one row of metrics.csv."""
        self._add(row)
        self._open().flush()

    def rewrite(self, rows: list[Row]) -> None:
        """Rebuild the event files from these rows, so that they contain nothing else."""
        self.close()
        # On a network file system, files that TensorBoard has open remain under another name, which nothing reads.
        shutil.rmtree(self._folder, ignore_errors=True)
        for row in rows:
            self._add(row)
        self.close()

    def close(self) -> None:
        """Write what is still buffered."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _add(self, row: Row) -> None:
        writer, seconds = self._open(), datetime.fromisoformat(row["time"]).timestamp()
        for tag, value in numbers_of(row).items():
            writer.add_scalar(tag, value, row["step"], walltime=seconds)

    def _open(self) -> Any:
        # Imported at first use, because importing TensorBoard takes seconds.
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # log() flushes itself; a long queue halves the time of rewrite().
            self._writer = SummaryWriter(str(self._folder), max_queue=1000)
        return self._writer
