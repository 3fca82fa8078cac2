"""What a person sees while a run goes on: what will happen, one live line, a row per evaluation, what came of it.

On a terminal the live line is drawn in place, at most 8 times a second. Off a terminal (a file, a pipe, Slurm)
it is a plain line every few seconds, without escape codes. What is said for good also goes to log.txt.
Nothing here can end a run: where the terminal is gone, the rest is silent.
"""

from __future__ import annotations

import math
import os
import re
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.text import Text

from distcls.errors import DiskError

SECONDS_BETWEEN_DRAWINGS = 1 / 8
UNLIMITED = 10**6
ESCAPE_CODE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b")


class Progress:
    """The voice of the main process; the other ranks get `Progress.silent()`, which has the same methods.

    stream: where to write, by default sys.stdout. interval: seconds between plain lines off a terminal.
    """

    def __init__(self, stream: TextIO | None = None, interval: float = 5.0) -> None:
        self._screen = _open_screen(stream or sys.stdout)
        self._interval = SECONDS_BETWEEN_DRAWINGS if isinstance(self._screen, TerminalScreen) else interval
        self._log = LogFile()
        self._started = time.monotonic()
        self._next_drawing = -math.inf
        self._total_steps = 0
        self._columns: list[Column] = []

    @classmethod
    def silent(cls) -> Progress:
        """A Progress that says nothing, for all ranks but the main one."""
        return SilentProgress()

    def attach_log(self, path: str | Path) -> None:
        """From now on append to this log.txt, beginning with what was said before. Raises DiskError."""
        try:
            self._log.attach(Path(path))
        except OSError as error:
            raise DiskError(f"Cannot write {path}: {error.strerror}. Give another folder (run.dir=DIR).") from error

    def note(self, text: str) -> None:
        """Say something that stays."""
        self._say(text)

    def warning(self, text: str) -> None:
        """Say something that stays and that somebody should look into."""
        self._say(f"warning: {text}", "yellow")

    def header(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Tell what will happen: (name, value) pairs, as two aligned columns."""
        indent = max((cell_len(name) for name, _ in pairs), default=0) + 2
        for name, value in pairs:
            label = name + " " * (indent - cell_len(name))
            self._say(label + value, label_width=len(label))
        self._say("")

    def working(self, what: str, done: int, total: int) -> None:
        """Work that precedes training, such as decoding: `done` of `total` pieces lie behind."""
        if done >= total:
            self.close()
        elif time.monotonic() >= self._next_drawing:
            self._draw(_count_fields(what, done, total))

    def start(self, total_steps: int, done: int) -> None:
        """Training begins: `done` of `total_steps` optimizer steps lie behind."""
        self._started, self._total_steps = time.monotonic(), total_steps
        self._draw(_count_fields("step", done, total_steps))

    def is_time_for(self, step: int) -> bool:
        """Whether this step should be told of: the last one, and one now and then."""
        return time.monotonic() >= self._next_drawing or step == self._total_steps

    def update(
        self,
        step: int,
        epoch: float,
        loss: float,
        accuracy: float | None = None,
        lr: float | None = None,
        images_per_second: float | None = None,
        memory_bytes: float | None = None,
        data_time_share: float | None = None,
        seconds_left: float | None = None,
    ) -> None:
        """`step` steps are done. Plain numbers; shares from 0 to 1. Ask `is_time_for` first: drawing takes its time."""
        fields = [
            Field(8, "epoch", _format(epoch, ".1f")),
            *_count_fields("step", step, self._total_steps),
            Field(1, "loss", _format(loss, ".4f" if abs(loss) < 1000 else ".3g")),
            Field(3, "acc", _format(accuracy, ".1%")),
            Field(6, "lr", _format(lr, ".2e")),
            Field(4, "", _format(images_per_second, ",.0f", " img/s")),
            Field(7, "", _memory(memory_bytes)),
            Field(5, "data wait", _format(data_time_share, ".0%")),
            Field(2, "left", _clock(seconds_left)),
        ]
        self._draw(fields)

    def evaluation_row(self, row: Mapping[str, Any]) -> None:
        """One more row of the table of evaluations of the val split.

        row: epoch, step, train_loss, loss, accuracy, top5, macro_f1, ece, accuracy_by_class, best (a bool: the best
        so far). What is missing stays blank; other names are ignored.
        """
        if not self._columns:
            self._columns = _columns_that_fit(row, self._screen.width)
            self._say("  ".join(f"{column.title:>{column.width}}" for column in self._columns), "bold")
        cells = {**row, "best": "*" if row.get("best") else "", "time": _clock(time.monotonic() - self._started)}
        self._say(
            "  ".join(f"{_cell(column, cells.get(column.name)):>{column.width}}" for column in self._columns),
            "green" if row.get("best") else "",
        )

    def finish(
        self, metrics: Mapping[str, Mapping[str, Any]], confusions: Sequence[tuple[str, str, int]], next_command: str
    ) -> None:
        """Training is over: what came of it, and what to type next.

        metrics: as in metrics.json, {"val": {...}, "test": {...}}. confusions: (true class, predicted class, how
        often), worst first. next_command: one command a line.
        """
        self.close()
        self._say("")
        for line in metrics_table(metrics):
            self._say(line)
        if confusions:
            self._say("\nmost often confused", "bold")
        for true, predicted, times in confusions:
            self._say(f"  {true} taken for {predicted}: {times} {'time' if times == 1 else 'times'}")
        if next_command:
            self._say("\nnext", "bold")
        for command in next_command.splitlines():
            self._say(f"  {command}", "cyan")

    def last_word(self, text: str) -> None:
        """How the run ended, for log.txt alone: the command line says it itself."""
        self._log.write(text)

    def close(self) -> None:
        """Take the live line away. Call it before the process ends for any reason."""
        self._screen.clear()

    def _draw(self, fields: list[Field]) -> None:
        self._screen.draw([field for field in fields if field.value])
        # Counted from the end of the drawing, so that a slow terminal does not eat the run's time.
        self._next_drawing = time.monotonic() + self._interval

    def _say(self, text: str, style: str = "", label_width: int = 0) -> None:
        self._screen.say(text, style, label_width)
        self._keep(text)

    def _keep(self, text: str) -> None:
        if problem := self._log.write(ESCAPE_CODE.sub("", text)):
            self._screen.say(problem, "yellow")


class SilentProgress(Progress):
    """The same methods, doing nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._screen, self._interval = NoScreen(), math.inf

    def attach_log(self, path: str | Path) -> None: ...

    def last_word(self, text: str) -> None: ...

    def _keep(self, text: str) -> None: ...


class Field(NamedTuple):
    """One number of the live line. A narrow terminal drops those with the highest `rank` first."""

    rank: int
    label: str
    value: str

    @property
    def text(self) -> str:
        return f"{self.label} {self.value}".strip()


@dataclass(frozen=True)
class Column:
    """One column of the table of evaluations. A narrow terminal drops those with the highest `rank` first."""

    name: str
    title: str
    width: int
    rank: int
    format: str


COLUMNS = [
    Column("epoch", "epoch", 6, 0, ".1f"),
    Column("step", "step", 7, 4, "d"),
    Column("train_loss", "train loss", 10, 2, ".4f"),
    Column("loss", "val loss", 8, 0, ".4f"),
    Column("accuracy", "val accuracy", 12, 0, ".2%"),
    Column("top5", "top-5", 7, 5, ".2%"),
    Column("macro_f1", "macro F1", 8, 3, ".4f"),
    Column("ece", "ECE", 6, 6, ".4f"),
    Column("best", "best", 4, 0, "s"),
    Column("time", "time", 7, 1, "s"),
]


class NoScreen:
    """Nobody looks."""

    width = UNLIMITED

    def say(self, text: str, style: str = "", label_width: int = 0) -> None:
        """Show lines that stay, the first `label_width` characters as a label."""

    def draw(self, fields: list[Field]) -> None:
        """Show where the run is now."""

    def clear(self) -> None:
        """Take away what does not stay."""


class PlainScreen(NoScreen):
    """A file or a pipe: whole lines, no escape codes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream

    def say(self, text: str, style: str = "", label_width: int = 0) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(ESCAPE_CODE.sub("", text) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            _silence(self._stream)
            self._stream = None

    def draw(self, fields: list[Field]) -> None:
        self.say("  ".join(field.text for field in fields))


class TerminalScreen(NoScreen):
    """A terminal: lines that stay scroll up above one live line."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, force_terminal=True, force_jupyter=False)
        self._live: Live | None = None
        self._stream = stream

    @property
    def width(self) -> int:  # type: ignore[override]
        return self._console.width

    def say(self, text: str, style: str = "", label_width: int = 0) -> None:
        line = Text(_wrap(ESCAPE_CODE.sub("", text), self.width, label_width), style=style)
        line.stylize("cyan", 0, label_width)
        self._try(lambda: self._console.print(line, soft_wrap=True))

    def draw(self, fields: list[Field]) -> None:
        self._try(lambda: self._draw(_live_line(fields, self._console.width)))

    def clear(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            self._try(live.stop)

    def _draw(self, line: Text) -> None:
        if self._live is not None:
            self._live.update(line, refresh=True)
            return
        self._live = live = Live(line, console=self._console, auto_refresh=False, transient=True)
        live.start(refresh=True)
        # rich hides the cursor; a killed run would leave the shell without one.
        self._console.show_cursor(True)

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except (OSError, ValueError):
            self._console.quiet = True
            _silence(self._stream)
            self.clear()


class LogFile:
    """log.txt: every line that stays, with the time. Lines said before it is attached wait for it."""

    def __init__(self) -> None:
        self._waiting = ""
        self._path: Path | None = None
        self._broken = False

    def attach(self, path: Path) -> None:
        self._path = path
        self._append(path, self._waiting)

    def write(self, text: str) -> str | None:
        """Append; the log is no reason to stop a run, so an error is returned, once, as a line to show."""
        now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        lines = "".join(f"{now}  {line}\n" for line in text.splitlines() if line.strip())
        if self._path is None:
            self._waiting += lines
        elif not self._broken:
            try:
                self._append(self._path, lines)
            except OSError as error:
                self._broken = True
                return f"warning: {self._path} cannot be written any more: {error.strerror}"
        return None

    def _append(self, path: Path, lines: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", errors="replace") as file:
            file.write(lines)


def _open_screen(stream: TextIO | None) -> NoScreen:
    if stream is None:  # Python's sys.stdout where the process was started without one
        return NoScreen()
    try:
        is_terminal = stream.isatty() and os.environ.get("TERM") not in (None, "dumb", "unknown")
    except ValueError:  # closed
        return NoScreen()
    if hasattr(stream, "reconfigure"):
        # An ASCII terminal shows "?" for "×" instead of ending the run.
        stream.reconfigure(errors="replace")  # type: ignore[attr-defined]
    return TerminalScreen(stream) if is_terminal else PlainScreen(stream)


def _silence(stream: TextIO) -> None:
    """Point a broken stdout at nothing, or Python's own flush at exit would turn exit code 0 into 120."""
    if stream is sys.__stdout__:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except (OSError, ValueError):
            return


def _live_line(fields: list[Field], width: int) -> Text:
    """As many fields as fit on one line, in their order, the last column left free (some terminals wrap there)."""
    shown = list(fields)
    while len(shown) > 1 and cell_len("  ".join(field.text for field in shown)) > width - 1:
        shown.remove(max(shown))
    line = Text(no_wrap=True, overflow="ellipsis")
    for position, field in enumerate(shown):
        line.append("  " if position else "")
        line.append(f"{field.label} " if field.label else "", "dim")
        line.append(field.value, "bold" if field.label == "loss" else "")
    return line


def _count_fields(what: str, done: int, total: int) -> list[Field]:
    return [Field(0, what, f"{done}/{total}"), Field(9, "", f"{done / max(total, 1):.0%}")]


def _columns_that_fit(row: Mapping[str, Any], width: int) -> list[Column]:
    columns = [column for column in COLUMNS if column.name != "top5" or _has_top5(row)]
    while sum(column.width + 2 for column in columns) - 2 > width:
        columns.remove(max(columns, key=lambda column: column.rank))
    return columns


def _has_top5(row: Mapping[str, Any]) -> bool:
    """Whether the row has a top-5 accuracy that says something: of five classes it is always 1."""
    return row.get("top5") is not None and len(row.get("accuracy_by_class", range(6))) > 5


def _cell(column: Column, value: Any) -> str:
    return "" if value is None else format(value, column.format)


def metrics_table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of a table of final metrics: a row for each split, or for whatever else was measured."""
    shown = {"accuracy": ".2%", "top5": ".2%", "macro_f1": ".4f", "ece": ".4f", "loss": ".4f", "count": ",d"}
    titles = {"macro_f1": "macro F1", "ece": "ECE", "top5": "top-5", "count": "images"}
    names = [name for name in shown if any(row.get(name) is not None for row in rows.values())]
    if not all(map(_has_top5, rows.values())):
        names = [name for name in names if name != "top5"]
    indent = max(map(len, ["test", *rows])) + 1
    lines = [" " * indent + "".join(f"{titles.get(name, name):>9}" for name in names)]
    for title, values in rows.items():
        cells = (format(values[name], shown[name]) if values.get(name) is not None else "" for name in names)
        lines.append(f"{title:<{indent}}" + "".join(f"{cell:>9}" for cell in cells))
    return lines if names else []


def _wrap(text: str, width: int, label_width: int) -> str:
    """Break lines between words, indented under what they belong to. Paths and commands stay whole, to be copied."""
    lines = []
    for line in text.split("\n"):
        if line.lstrip().startswith("distcls "):
            lines.append(line)
            continue
        indent = label_width or len(line) - len(line.lstrip())
        rest = textwrap.wrap(line[indent:], max(width - indent, 20), break_long_words=False, break_on_hyphens=False)
        lines.append(line[:indent] + ("\n" + " " * indent).join(rest))
    return "\n".join(lines)


def _format(number: float | None, form: str, unit: str = "") -> str:
    return "" if number is None else format(number, form) + unit


def _memory(num_bytes: float | None) -> str:
    """Decimal gigabytes; nothing where it is not measured (None or 0)."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes else ""


def _clock(seconds: float | None) -> str:
    """h:mm:ss, or nothing where it is not known."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    minutes, second = divmod(round(max(seconds, 0)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"
