"""Shows a run's progress: a header, one live line, a row for each evaluation, and the results.

On a terminal and in a notebook, the live line is redrawn in place. Elsewhere (a file, a pipe, Slurm), it is a plain
line every few seconds, without escape codes (screens.py). Everything but the live line also goes to log.txt.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from rich.cells import cell_len

from distcls.config.wording import count
from distcls.errors import DiskError
from distcls.terminal.columns import clock
from distcls.terminal.screens import Field, NoScreen, open_screen, without_codes
from distcls.terminal.tables import EvaluationTable, class_table, full_table, summary_table


class Progress:
    """Prints what a run is doing, on the main process; other ranks get `Progress.silent()`, with the same methods.

    stream: where to write, by default sys.stdout. interval: seconds between plain lines, if it redraws none in place.
    """

    def __init__(self, stream: TextIO | None = None, interval: float = 5.0) -> None:
        self._screen = open_screen(stream or sys.stdout)
        self._interval = self._screen.seconds_between_drawings or interval
        self._log = LogFile()
        self._started = time.monotonic()
        self._next_drawing = -math.inf
        self._total_steps = 0
        self._table: EvaluationTable | None = None

    @classmethod
    def silent(cls) -> Progress:
        """Return a Progress that prints nothing, for all ranks but the main one."""
        return SilentProgress()

    def attach_log(self, path: str | Path) -> None:
        """Append to this log.txt from now on, starting with what was printed before. Raises DiskError."""
        try:
            self._log.attach(Path(path))
        except OSError as error:
            raise DiskError(
                f"cannot write {path}: {error.strerror}. Choose another folder with run.dir=DIR."
            ) from error

    def note(self, text: str) -> None:
        """Print a permanent line."""
        self._say(text)

    def warning(self, text: str) -> None:
        """Print a permanent line that someone should look into."""
        self._say(f"warning: {text}", "yellow")

    def header(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Print what is about to happen: (name, value) pairs in two aligned columns."""
        indent = max((cell_len(name) for name, _ in pairs), default=0) + 2
        for name, value in pairs:
            label = name + " " * (indent - cell_len(name))
            self._say(label + value, label_width=len(label))
        self._say("")

    def working(self, what: str, done: int, total: int) -> None:
        """Show work that precedes training, such as decoding: `done` of `total` items are finished."""
        if done >= total:
            self.close()
        elif time.monotonic() >= self._next_drawing:
            self._draw(count_fields(what, done, total))

    def start(self, total_steps: int, done: int) -> None:
        """Start showing training: `done` of `total_steps` optimizer steps are finished."""
        self._started, self._total_steps = time.monotonic(), total_steps
        self._draw(count_fields("step", done, total_steps))

    def is_time_for(self, step: int) -> bool:
        """True if this step should be shown: the last step, and one every so often."""
        return time.monotonic() >= self._next_drawing or step == self._total_steps

    def update(
        self,
        step: int,
        epoch: float,
        num_averaged: int,
        loss: float,
        accuracy: float | None = None,
        lr: float | None = None,
        images_per_second: float | None = None,
        memory_bytes: float | None = None,
        data_time_share: float | None = None,
        seconds_left: float | None = None,
    ) -> None:
        """Draw the live line after `step` steps; loss and accuracy are means over the last `num_averaged` of them.

        Takes plain numbers, fractions from 0 to 1. Ask `is_time_for` first: drawing takes time.
        """
        window = "last step" if num_averaged == 1 else f"last {num_averaged} steps"
        fields = [
            Field(5, "epoch", _format(epoch, ".1f")),
            *count_fields("step", step, self._total_steps),
            Field(1, f"{window}: loss", _format(loss, ".4f" if abs(loss) < 1000 else ".3g")),
            Field(3, "acc", _format(accuracy, ".1%")),
            Field(7, "lr", _format(lr, ".2e")),
            Field(4, "", _format(images_per_second, ",.0f", " img/s")),
            Field(8, "", _memory(memory_bytes)),
            Field(6, "data wait", _format(data_time_share, ".0%")),
            Field(2, "left", clock(seconds_left)),
        ]
        self._draw(fields)

    def evaluation_row(self, row: Mapping[str, Any]) -> None:
        """Print a row of the table of evaluations on the val split.

        row: epoch, step, metrics and training means by name (config/metrics.py), by_class (of each class), best (a
        bool: the best so far). Missing values stay blank; other names are ignored.
        """
        if self._table is None:
            self._table = EvaluationTable(row, self._screen.width)
            self._say(self._table.head(), "bold")
        cells = {**row, "best": "*" if row.get("best") else "", "time": clock(time.monotonic() - self._started)}
        self._say(self._table.line(cells), "green" if row.get("best") else "")

    def finish(
        self, metrics: Mapping[str, Mapping[str, Any]], confusions: Sequence[tuple[str, str, int]], next_command: str
    ) -> None:
        """Print the results of a finished run, and what to type next.

        metrics: as in metrics.json, {"val": {...}, "test": {...}}; classes are shown for the last split. confusions:
        (true class, predicted class, how often), worst first. next_command: one command per line.
        """
        self.close()
        self._say("")
        for line in summary_table(metrics):
            self._say(line)
        for of_split in list(metrics)[-1:]:
            self._say_classes(of_split, metrics[of_split], confusions)
        if next_command:
            self._say("\nnext", "bold")
        for command in next_command.splitlines():
            self._say(f"  {command}", "cyan")

    def measurement(self, split: str, metrics: Mapping[str, Any], confusions: Sequence[tuple[str, str, int]]) -> None:
        """Print all metrics of one split.

        metrics: a split's entry in metrics.json. confusions: see `finish`.
        """
        self.close()
        for line in full_table({split: metrics}):
            self._say(line)
        self._say_classes(split, metrics, confusions)
        self.close()

    def _say_classes(self, split: str, metrics: Mapping[str, Any], confusions: Sequence[tuple[str, str, int]]) -> None:
        title, lines = class_table(metrics.get("by_class", {}))
        if lines:
            self._say(f"\n{split}, {title}", "bold")
        for line in lines:
            self._say(line)
        if confusions:
            self._say(f"\n{split}, most often confused", "bold")
        for true, predicted, times in confusions:
            self._say(f"  {true} taken for {predicted}: {count(times, 'time')}")

    def last_word(self, text: str) -> None:
        """Write to log.txt how the run ended; the command prints that itself."""
        self._log.write(text)

    def close(self) -> None:
        """Remove the live line and give a slow terminal a moment. Call this before the process exits for any reason."""
        self._screen.clear()
        self._screen.drain()

    def _draw(self, fields: list[Field]) -> None:
        self._screen.draw([field for field in fields if field.value])
        # Counted from the end of drawing, so that a slow terminal does not slow down the run.
        self._next_drawing = time.monotonic() + self._interval

    def _say(self, text: str, style: str = "", label_width: int = 0) -> None:
        self._screen.say(text, style, label_width)
        self._keep(text)

    def _keep(self, text: str) -> None:
        if problem := self._log.write(without_codes(text)):
            self._screen.say(problem, "yellow")


class SilentProgress(Progress):
    """A Progress whose methods do nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._screen, self._interval = NoScreen(), math.inf

    def attach_log(self, path: str | Path) -> None: ...

    def last_word(self, text: str) -> None: ...

    def _keep(self, text: str) -> None: ...


class LogFile:
    """log.txt: every permanent line, with its time. Lines written before it is attached are kept until then."""

    def __init__(self) -> None:
        self._waiting = ""
        self._path: Path | None = None
        self._broken = False

    def attach(self, path: Path) -> None:
        self._path = path
        self._append(path, self._waiting)

    def write(self, text: str) -> str | None:
        """Append to the log. An error must not stop the run, so it is returned, once, as a line to show."""
        now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        lines = "".join(f"{now}  {line}\n" for line in text.splitlines() if line.strip())
        if self._path is None:
            self._waiting += lines
        elif not self._broken:
            try:
                self._append(self._path, lines)
            except OSError as error:
                self._broken = True
                return f"warning: cannot write to {self._path} any more: {error.strerror}"
        return None

    def _append(self, path: Path, lines: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", errors="replace") as file:
            file.write(lines)


def count_fields(what: str, done: int, total: int | None) -> list[Field]:
    """Return fields such as "step 12/200" and "6%"; total: None if it is unknown."""
    if total is None:
        return [Field(0, what, f"{done}")]
    return [Field(0, what, f"{done}/{total}"), Field(9, "", f"{done / max(total, 1):.0%}")]


def _format(number: float | None, form: str, unit: str = "") -> str:
    return "" if number is None else format(number, form) + unit


def _memory(num_bytes: float | None) -> str:
    """Return decimal gigabytes as text; nothing if memory is not measured (None or 0)."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes else ""
