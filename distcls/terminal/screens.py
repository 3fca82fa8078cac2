"""Draws output where a run is watched: one live line on a terminal or in a notebook, plain lines in a file, or nothing.

Nothing here can end a run: if the terminal goes away, the rest is silent.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.text import Text

from distcls.terminal.patient_stream import PatientStream

UNLIMITED = 10**6
_ESCAPE_CODE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b")


def open_screen(stream: TextIO | None) -> NoScreen:
    """Return the right screen for a stream; None, as sys.stdout may be, gives one that shows nothing."""
    if stream is None:
        return NoScreen()
    if type(stream).__module__.startswith("ipykernel."):
        return NotebookScreen(stream)
    try:
        is_terminal = stream.isatty() and os.environ.get("TERM") not in (None, "dumb", "unknown")
    except ValueError:  # closed
        return NoScreen()
    if hasattr(stream, "reconfigure"):
        # An ASCII terminal shows "?" for "×" instead of ending the run.
        stream.reconfigure(errors="replace")  # type: ignore[attr-defined]
    return TerminalScreen(stream) if is_terminal else PlainScreen(stream)


class Field(NamedTuple):
    """One number on the live line. A narrow terminal drops those with the highest `rank` first."""

    rank: int
    label: str
    value: str

    @property
    def text(self) -> str:
        return f"{self.label} {self.value}".strip()


class NoScreen:
    """No screen: nothing is shown."""

    width = UNLIMITED
    seconds_between_drawings: float | None = None
    """If the live line is redrawn in place; None if each drawing is a new line, or if there is none."""

    def say(self, text: str, style: str = "", label_width: int = 0) -> None:
        """Show permanent lines, the first `label_width` characters as a label."""

    def draw(self, fields: list[Field]) -> None:
        """Show the run's current numbers."""

    def clear(self) -> None:
        """Remove what is not permanent."""

    def drain(self) -> None:
        """Wait a moment until everything is shown."""


class PlainScreen(NoScreen):
    """A file or a pipe: whole lines without escape codes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream

    def say(self, text: str, style: str = "", label_width: int = 0) -> None:
        self._write(without_codes(text) + "\n")

    def draw(self, fields: list[Field]) -> None:
        self.say("  ".join(field.text for field in fields))

    def _write(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            _silence(self._stream)
            self._stream = None


class NotebookScreen(PlainScreen):
    """The output of a notebook's cell: plain lines, and below them one live line.

    Carriage returns redraw that in all front ends, and in what is saved; they know no other codes for a cursor.
    """

    width = 100
    seconds_between_drawings = 0.5  # each drawing is a message to the browser

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._drawn = 0

    def say(self, text: str, style: str = "", label_width: int = 0) -> None:
        self.clear()
        super().say(_wrap(text, self.width, label_width))

    def draw(self, fields: list[Field]) -> None:
        line = _live_line(fields, self.width).plain
        self._write("\r" + line + " " * (self._drawn - cell_len(line)))
        self._drawn = cell_len(line)

    def clear(self) -> None:
        if self._drawn:
            self._write("\r" + " " * self._drawn + "\r")
            self._drawn = 0


class TerminalScreen(NoScreen):
    """A terminal: permanent lines scroll above one live line."""

    seconds_between_drawings = 1 / 8

    def __init__(self, stream: TextIO) -> None:
        self._patient = PatientStream(stream)
        file: Any = self._patient
        self._console = Console(file=file, force_terminal=True, force_jupyter=False)
        self._live: Live | None = None
        self._stream = stream

    @property
    def width(self) -> int:  # type: ignore[override]
        return self._console.width

    def say(self, text: str, style: str = "", label_width: int = 0) -> None:
        line = Text(_wrap(without_codes(text), self.width, label_width), style=style)
        line.stylize("cyan", 0, label_width)
        self._try(lambda: self._console.print(line, soft_wrap=True))

    def draw(self, fields: list[Field]) -> None:
        self._try(lambda: self._draw(_live_line(fields, self._console.width)))

    def clear(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            self._try(live.stop)

    def drain(self) -> None:
        self._patient.drain()

    def _draw(self, line: Text) -> None:
        if self._live is not None:
            self._live.update(line, refresh=True)
            return
        self._live = live = Live(line, console=self._console, auto_refresh=False, transient=True)
        live.start(refresh=True)
        # rich hides the cursor; a killed run would leave the shell without it.
        self._console.show_cursor(True)

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except (OSError, ValueError):
            self._console.quiet = True
            _silence(self._stream)
            self.clear()


def _silence(stream: TextIO) -> None:
    """Redirect a broken stdout to /dev/null, or Python's flush at exit would turn exit code 0 into 120."""
    if stream is sys.__stdout__:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except (OSError, ValueError):
            return


def _live_line(fields: list[Field], width: int) -> Text:
    """Return as many fields as fit on one line, in order, leaving the last column free (some terminals wrap there)."""
    shown = list(fields)
    while len(shown) > 1 and cell_len("  ".join(field.text for field in shown)) > width - 1:
        shown.remove(max(shown))
    line = Text(no_wrap=True, overflow="ellipsis")
    for position, field in enumerate(shown):
        line.append("  " if position else "")
        line.append(f"{field.label} " if field.label else "", "dim")
        line.append(field.value, "bold" if field.label.endswith("loss") else "")
    return line


def _wrap(text: str, width: int, label_width: int) -> str:
    """Break lines between words and indent them under their label. Paths and commands stay whole, for copying."""
    lines = []
    for line in text.split("\n"):
        if line.lstrip().startswith("distcls "):
            lines.append(line)
            continue
        indent = label_width or len(line) - len(line.lstrip())
        rest = textwrap.wrap(line[indent:], max(width - indent, 20), break_long_words=False, break_on_hyphens=False)
        lines.append(line[:indent] + ("\n" + " " * indent).join(rest))
    return "\n".join(lines)


def without_codes(text: str) -> str:
    """Return text without the escape codes that move a terminal's cursor or change its color."""
    return _ESCAPE_CODE.sub("", text)
