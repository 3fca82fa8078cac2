"""Copies the rows of metrics.csv to TensorBoard's event files."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

from distcls.config.metrics import TRAIN_MEANS
from distcls.runs.tracking.metrics_file import TEXT_COLUMNS, Row

TAGS = {
    **{name: name for name in ("epoch", "lr", "grad_norm")},
    **{name: f"{metric.name}/train_mean" for name, metric in TRAIN_MEANS.items()},
}
"""Columns that do not depend on the split, so that their tag needs no "/train"; the others are "column/split"."""


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
        for name, value in row.items():
            if name not in (*TEXT_COLUMNS, "step") and isinstance(value, int | float):
                tag = TAGS.get(name, f"{name}/{row['split']}")
                writer.add_scalar(tag, value, row["step"], walltime=seconds)

    def _open(self) -> Any:
        # Imported at first use, because importing TensorBoard takes seconds.
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # log() flushes itself; a long queue halves the time of rewrite().
            self._writer = SummaryWriter(str(self._folder), max_queue=1000)
        return self._writer
