"""Says which rows of metrics.csv are final, and what their numbers are called outside of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from distcls.config.metrics import TRAIN_MEANS
from distcls.runs.resuming import checkpoint_folder, newest_step
from distcls.runs.status import is_finished, read_object
from distcls.runs.tracking.metrics_file import TEXT_COLUMNS, Row, is_covered, read_metrics

TAGS = {
    **{name: name for name in ("epoch", "lr", "grad_norm")},
    **{name: f"{metric.name}/train_mean" for name, metric in TRAIN_MEANS.items()},
}
"""Columns that do not depend on the split, so that their tag needs no "/train"; the others are "column/split"."""


def numbers_of(row: Row) -> dict[str, float]:
    """Return the numbers of a row by the tags that trackers show: {"loss/val": 0.31, "lr": 0.001}."""
    return {
        TAGS.get(name, f"{name}/{row['split']}"): value
        for name, value in row.items()
        if name not in (*TEXT_COLUMNS, "step") and isinstance(value, int | float)
    }


def covered_steps(run_dir: Path) -> tuple[float, float]:
    """Return the last step whose rows a checkpoint covers, and the last step whose evaluation it covers.

    This reads no rows, so it is a quick way to learn whether `covered_rows` has more of them.
    """
    newest = newest_step(run_dir)
    if newest == 0 and is_finished(run_dir):  # the checkpoints were deleted to free space
        return math.inf, math.inf
    return newest, read_object(checkpoint_folder(run_dir, newest) / "state.json").get("evaluated_step", 0)


def covered_rows(run_dir: Path) -> list[Row]:
    """Return the rows that a checkpoint covers: no later start of the run takes them back or writes them again.

    So the list only ever grows at its end. The rows of the test split are left out, since a run that is made longer
    measures it again; see `test_row`.
    """
    if not (run_dir / "metrics.csv").exists():
        return []
    step, evaluated_step = covered_steps(run_dir)
    return [row for row in read_metrics(run_dir / "metrics.csv") if is_covered(row, step, evaluated_step)]


def test_row(run_dir: Path) -> Row | None:
    """Return the row of the test split of a finished run; None if there is none."""
    if not is_finished(run_dir):
        return None
    rows: list[Any] = [row for row in read_metrics(run_dir / "metrics.csv") if row["split"] == "test"]
    return rows[-1] if rows else None
