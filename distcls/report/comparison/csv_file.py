"""Writes a table of runs as CSV, for spreadsheets and pandas: one row for each run, with all that is known of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distcls.config.yaml_text import shown
from distcls.files.atomic import naming_disk_errors, write_text
from distcls.report.comparison.columns import Column, columns_of
from distcls.report.comparison.rows import Row
from distcls.report.comparison.table import Table


def write_csv(table: Table, path: Path) -> None:
    """Write the table's runs; `group` names the row of a run that is part of one. Raises DiskError."""
    members = [(row, Row(str(run.dir), [run])) for row in table.rows for run in row.runs if _is_own(row, table)]
    rows = [single for _, single in members]
    cells: dict[str, list[Any]] = {
        "run": [single.name for single in rows],
        "group": [row.name if row.is_group else "" for row, _ in members],
        "state": [single.state for single in rows],
        "reason": [single.runs[0].reason for single in rows],
    }
    for column in columns_of(rows, table.metric):
        cells.update(_cells(column))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(cells)
    writer.writerows(zip(*cells.values(), strict=True))
    with naming_disk_errors(path):
        write_text(path, text.getvalue(), durable=False)


def _is_own(row: Row, table: Table) -> bool:
    return not (row.is_group and table.is_one_group)


def _cells(column: Column) -> Iterator[tuple[str, list[Any]]]:
    """Yield the column, and the two ends of its intervals if there are any."""
    if column.is_setting:
        yield column.name, [value if isinstance(value, int | float) else shown(value) for value in column.values]
        return
    yield column.name, list(column.values)
    if any(interval is not None for interval in column.intervals):
        for end, name in enumerate(("low", "high")):
            yield f"{column.name}.{name}", ["" if one is None else one[end] for one in column.intervals]
