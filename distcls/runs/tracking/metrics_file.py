"""Writes metrics.csv: one row per call, in a single write, so that a process killed between two rows loses none.

The header says which columns the file has, so runs from versions with fewer or more columns can be read and resumed.
A value that has no column yet adds one.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from distcls.config.metrics import BEST_METRICS, TRAIN_MEANS
from distcls.config.wording import ANOTHER_RUN
from distcls.errors import DiskError, MissingInputError, UsageError
from distcls.files.atomic import drop_torn_line, fsync, whole_lines, write_bytes

COLUMNS = (
    *("time", "step", "epoch", "split"),
    *BEST_METRICS,
    *TRAIN_MEANS,
    *("lr", "grad_norm", "images_per_second", "data_time"),
)
"""Columns of a new file; rows of training steps and of evaluations each fill some of them."""

TEXT_COLUMNS = ("time", "split")

NEEDED = {"time", "step", "split"}
"""Without these columns a file is not a metrics.csv."""

Row = dict[str, Any]


class MetricsFile:
    """metrics.csv. Rows are written whole, with floats that read back unchanged."""

    def __init__(self, path: Path) -> None:
        """Raise UsageError if the file is not a metrics.csv, DiskError if it cannot be written."""
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if drop_torn_line(path) == b"":
                write_bytes(path, _csv_line(COLUMNS))
            self._columns = _read_header(path)
        except OSError as error:
            raise _cannot_write(path, error) from error

    def append(self, row: Mapping[str, Any]) -> Row:
        """Write one row, given without its "time", and return it as read_metrics would; None is left blank.

        Raises ValueError for a row without step or split.
        """
        if missing := {"step", "split"} - set(row):
            raise ValueError(f"a row of metrics.csv needs {sorted(missing)}; given {dict(row)}")
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        row = {**row, "time": now}
        try:
            self._widen([name for name, value in row.items() if value is not None and name not in self._columns])
            cells = [_cell(row.get(name)) for name in self._columns]
            _append(self._path, _csv_line(cells))
        except OSError as error:
            raise _cannot_write(self._path, error) from error
        return _parse(self._columns, cells)

    def _widen(self, names: Sequence[str]) -> None:
        """Add columns at the end, blank in existing rows, by writing a file that replaces the old one."""
        if names:
            rows = [[*cells, *[""] * len(names)] for cells in _read_cells(self._path, self._columns)]
            self._columns = [*self._columns, *names]
            write_bytes(self._path, b"".join(_csv_line(cells) for cells in [self._columns, *rows]))

    def sync(self) -> None:
        """Force all rows to disk. Raises DiskError."""
        try:
            fsync(self._path)
        except OSError as error:
            raise _cannot_write(self._path, error) from error

    def truncate(self, step: int, evaluated_step: int) -> list[Row]:
        """Remove the rows after `step` (and an unfinished last line); return the remaining rows.

        The row of the test split is removed too: a resumed run evaluates it again at its end. So is a val row after
        `evaluated_step`, whose evaluation came after the checkpoint.

        The shorter file is written next to the old one and renamed over it: a kill leaves one or the other.
        """
        rows = ((cells, _parse(self._columns, cells)) for cells in _read_cells(self._path, self._columns))
        kept = [cells for cells, row in rows if is_covered(row, step, evaluated_step)]
        try:
            write_bytes(self._path, b"".join(_csv_line(cells) for cells in [self._columns, *kept]))
        except OSError as error:
            raise _cannot_write(self._path, error) from error
        return [_parse(self._columns, cells) for cells in kept]


def is_covered(row: Row, step: float, evaluated_step: float) -> bool:
    """True if a run that resumes from the checkpoint of `step` keeps this row, and does not write it again."""
    last = {"train": step, "val": evaluated_step, "test": -1}
    return row["step"] <= last.get(row["split"], step)


def read_metrics(path: str | Path) -> list[Row]:
    """Return the rows of metrics.csv: "step" an int, "time" and "split" text, the rest floats; None for blanks.

    Each has all of COLUMNS, and any others in the file. A last line that is still being written is left out.
    Raises MissingInputError if the file does not exist, UsageError if it is another kind of file, DiskError if it is
    damaged.
    """
    if not Path(path).is_file():
        raise MissingInputError(f"there is no {path}: give the folder of a run that has started.")
    columns = _read_header(Path(path))
    return [_parse(columns, cells) for cells in _read_cells(Path(path), columns)]


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return str(value) if isinstance(value, int) else repr(float(value))


def _parse(columns: Sequence[str], cells: list[str]) -> Row:
    found = {name: _value(name, cell) for name, cell in zip(columns, cells, strict=True)}
    return {**dict.fromkeys(COLUMNS), **found}


def _value(name: str, cell: str) -> Any:
    if cell == "":
        return None
    if name in TEXT_COLUMNS:
        return cell
    try:
        return int(cell) if name == "step" else float(cell)
    except ValueError:
        if name in COLUMNS:
            raise
        return cell  # another version may write text


def _csv_line(cells: Iterable[str]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue().encode()


def _read_cells(path: Path, columns: Sequence[str]) -> list[list[str]]:
    """Return the cells of each complete line after the header."""
    text = whole_lines(path.read_bytes()).decode(errors="replace")
    lines = list(csv.reader(io.StringIO(text)))[1:]
    for number, cells in enumerate(lines, start=2):
        try:
            if _parse(columns, cells)["step"] is None:
                raise ValueError("it has no step")
        except ValueError as error:
            raise DiskError(f"{path}, line {number} is damaged ({error}): delete that line and run again.") from error
    return lines


def _read_header(path: Path) -> list[str]:
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        columns = next(csv.reader(file), [])
    if not set(columns) >= NEEDED or len(set(columns)) < len(columns):
        raise UsageError(
            f"{path} has the columns {','.join(columns)!r}, but {','.join(COLUMNS)!r} or similar was expected: "
            f"another program wrote it. Move it away, or {ANOTHER_RUN}."
        )
    return columns


def _append(path: Path, line: bytes) -> None:
    # Unbuffered: a row is one write system call, so the kernel has all of it when the call returns.
    with path.open("ab", buffering=0) as file:
        written = file.write(line)
        while written < len(line):  # a full disk may stop a write halfway; the next write says why
            written += file.write(line[written:])


def _cannot_write(path: Path, error: OSError) -> DiskError:
    return DiskError(
        f"cannot write {path}: {error.strerror}. Make room or fix its permissions, then run again to resume."
    )
