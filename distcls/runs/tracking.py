"""Where the numbers of a run go: metrics.csv, which is the truth, and trackers such as TensorBoard, which copy it.

metrics.csv gets one row per call, in one write, so a process killed between two rows loses none. A run that
goes on from a checkpoint first cuts back to the checkpoint's step; the trackers are then made again from the
rows that are left, so that they always equal metrics.csv.
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from distcls.errors import DiskError, MissingInputError, UsageError
from distcls.files.atomic import fsync, write_bytes

COLUMNS = (
    *("time", "step", "epoch", "split"),
    *("loss", "accuracy", "top5", "macro_f1", "ece"),
    *("lr", "grad_norm", "images_per_second", "data_time"),
)
TEXT_COLUMNS = ("time", "split")
# The same for every split, so the tag needs no "/train".
TAGS_WITHOUT_SPLIT = ("epoch", "lr", "grad_norm")

Row = dict[str, Any]


class Tracker:
    """Sends each row of numbers to metrics.csv and to the trackers. Only the main process makes one.

    Raises UsageError for a tracker that is not in TRACKERS, DiskError where metrics.csv cannot be written.
    """

    def __init__(self, run_dir: str | Path, trackers: list[str]) -> None:
        check_trackers(trackers)
        self.metrics = MetricsFile(Path(run_dir) / "metrics.csv")
        self._trackers = [TRACKERS[name](Path(run_dir)) for name in trackers]

    def log(self, row: Mapping[str, Any]) -> None:
        """Keep one row: names of COLUMNS without "time"; what is missing or None is left blank."""
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


class MetricsFile:
    """metrics.csv. Rows are written whole, floats so that they read back unchanged."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if _drop_torn_line(path) == b"":
                write_bytes(path, _csv_line(COLUMNS))
            _check_header(path)
        except OSError as error:
            raise _cannot_write(path, error) from error

    def append(self, row: Mapping[str, Any]) -> Row:
        """Write one row and return it as read_metrics would.

        Raises ValueError for a name not in COLUMNS and for a row without step or split.
        """
        if unknown := set(row) - set(COLUMNS):
            raise ValueError(f"metrics.csv has no column {sorted(unknown)}; its columns are {', '.join(COLUMNS)}")
        if missing := {"step", "split"} - set(row):
            raise ValueError(f"a row of metrics.csv needs {sorted(missing)}; given {dict(row)}")
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        cells = [_cell(value) for value in ({**row, "time": now}.get(name) for name in COLUMNS)]
        try:
            _append(self._path, _csv_line(cells))
        except OSError as error:
            raise _cannot_write(self._path, error) from error
        return _parse(cells)

    def sync(self) -> None:
        """See that all rows are on the disk. Raises DiskError."""
        try:
            fsync(self._path)
        except OSError as error:
            raise _cannot_write(self._path, error) from error

    def truncate(self, step: int, evaluated_step: int) -> list[Row]:
        """Cut the rows after `step` (and a last line that was never finished); returns the rows that are left.

        The row of the test split goes too: a run that goes on measures it again when it ends. So does a val row
        after `evaluated_step`, whose evaluation came after the checkpoint.

        The shorter file is written beside the old one and renamed over it: a kill leaves one or the other.
        """
        rows = ((cells, _parse(cells)) for cells in _read_cells(self._path))
        last = {"train": step, "val": evaluated_step, "test": -1}
        kept = [cells for cells, row in rows if row["step"] <= last[row["split"]]]
        try:
            write_bytes(self._path, b"".join(_csv_line(cells) for cells in [COLUMNS, *kept]))
        except OSError as error:
            raise _cannot_write(self._path, error) from error
        return [_parse(cells) for cells in kept]


def read_metrics(path: str | Path) -> list[Row]:
    """The rows of metrics.csv: "step" an int, "time" and "split" text, the rest floats; None where blank.

    A last line that is still being written is left out. Raises MissingInputError where there is no such file,
    DiskError where it is damaged.
    """
    if not Path(path).is_file():
        raise MissingInputError(f"There is no {path}: give the folder of a run that has started.")
    _check_header(Path(path))
    return [_parse(cells) for cells in _read_cells(Path(path))]


class TensorBoard:
    """Event files in run_dir/tb, to be looked at with `tensorboard --logdir runs`."""

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / "tb"
        self._writer: Any = None

    def log(self, row: Row) -> None:
        self._add(row)
        self._open().flush()

    def rewrite(self, rows: list[Row]) -> None:
        """Make the event files again from these rows, so that they hold nothing else."""
        self.close()
        # On a network file system, what TensorBoard has open stays under another name, which nobody reads.
        shutil.rmtree(self._folder, ignore_errors=True)
        for row in rows:
            self._add(row)
        self.close()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _add(self, row: Row) -> None:
        writer, seconds = self._open(), datetime.fromisoformat(row["time"]).timestamp()
        for name in COLUMNS:
            if name not in (*TEXT_COLUMNS, "step") and row[name] is not None:
                tag = name if name in TAGS_WITHOUT_SPLIT else f"{name}/{row['split']}"
                writer.add_scalar(tag, row[name], row["step"], walltime=seconds)

    def _open(self) -> Any:
        # At first use, because importing TensorBoard takes seconds.
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # log() flushes itself; a long queue halves the time of rewrite().
            self._writer = SummaryWriter(str(self._folder), max_queue=1000)
        return self._writer


TRACKERS = {"tensorboard": TensorBoard}


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return str(value) if isinstance(value, int) else repr(float(value))


def _parse(cells: list[str]) -> Row:
    return {name: _value(name, cell) for name, cell in zip(COLUMNS, cells, strict=True)}


def _value(name: str, cell: str) -> Any:
    if cell == "":
        return None
    if name in TEXT_COLUMNS:
        return cell
    return int(cell) if name == "step" else float(cell)


def _csv_line(cells: Any) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue().encode()


def _read_cells(path: Path) -> list[list[str]]:
    """The cells of each whole line after the header."""
    text = _whole_lines(path.read_bytes()).decode(errors="replace")
    lines = list(csv.reader(io.StringIO(text)))[1:]
    for number, cells in enumerate(lines, start=2):
        try:
            if _parse(cells)["step"] is None:
                raise ValueError("it has no step")
        except ValueError as error:
            raise DiskError(f"{path}, line {number} is damaged ({error}): delete that line and run again.") from error
    return lines


def _whole_lines(content: bytes) -> bytes:
    return content[: content.rfind(b"\n") + 1]


def _drop_torn_line(path: Path) -> bytes:
    """Cut a last line without its end, which would swallow the next row; returns what is left."""
    content = path.read_bytes() if path.exists() else b""
    whole = _whole_lines(content)
    if whole != content:
        write_bytes(path, whole)
    return whole


def _check_header(path: Path) -> None:
    with path.open(encoding="utf-8", errors="replace") as file:
        header = file.readline().strip()
    if header != ",".join(COLUMNS):
        raise UsageError(
            f"{path} has the columns {header!r}, where {','.join(COLUMNS)!r} was expected: another version of "
            "distcls wrote it, or another program. Move it away, or take another run name (--name NAME)."
        )


def _append(path: Path, line: bytes) -> None:
    # Unbuffered: a row is one write system call, so it is in the kernel's hands, whole, when the call returns.
    with path.open("ab", buffering=0) as file:
        written = file.write(line)
        while written < len(line):  # a full disk may stop a write halfway; going on makes the system say why
            written += file.write(line[written:])


def _cannot_write(path: Path, error: OSError) -> DiskError:
    return DiskError(f"Cannot write {path}: {error.strerror}. Make room or fix the rights, then run again to go on.")
