"""Makes the pictures of the README and docs/ from a real run of the demo: `make pictures`.

The demo runs in a pseudo-terminal. Its output becomes demo.svg, a recording that plays in any browser; its plots become
report.png, and the top of its report.html, in chromium, report-page.png. Nothing is drawn by hand, so the pictures show
what the program does today.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image
from rich.color import Color, ColorType
from rich.style import Style
from rich.terminal_theme import SVG_EXPORT_THEME
from rich.text import Text

DOCS = Path(__file__).parent
COLUMNS, ROWS = 100, 26
"""Size of the terminal in characters. The recording scrolls as the terminal would."""

FONT_SIZE, CHARACTER, LINE = 13, 7.8, 18
"""Pixels: the font's size, the width of a character, the height of a line."""

PAGE = (1280, 1400)
"""Pixels of a web page that are shown."""

MARGIN = 14
PLAYING, AT_THE_END = 20.0, 8.0
"""Seconds that the recording plays, however long the demo took, and seconds it then waits before it loops."""

SHORTEST = 0.2
"""Seconds that a state of the live line must last to be recorded."""

_CONTROL = re.compile(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)")


@dataclass
class Line:
    """One state of one line of the terminal: its text, with color codes, and when it was shown, in seconds."""

    row: int
    text: str
    start: float
    end: float | None = None


def main() -> None:
    """Write demo.svg, report.png and report-page.png beside this file."""
    with tempfile.TemporaryDirectory() as folder:
        output = list(record([sys.executable, "-m", "distcls", "train"], Path(folder)))
        command = [(0.0, "\x1b[32m$\x1b[0m make demo\r\n")]
        (DOCS / "demo.svg").write_text(draw(paced(lines_of([*command, *output]))), encoding="utf-8")
        join_plots(Path(folder) / "runs" / "digits" / "plots").save(DOCS / "report.png", optimize=True)
        photograph(Path(folder) / "runs" / "digits" / "report.html").save(DOCS / "report-page.png", optimize=True)


def record(command: list[str], folder: Path) -> Iterator[tuple[float, str]]:
    """Run a command in a terminal and yield its output, with the seconds since it first printed anything.

    Raises RuntimeError if the command fails.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(DOCS.parent)}
    environment = {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=environment)
    os.close(theirs)
    began, rest = None, b""
    while True:
        try:
            rest += os.read(ours, 65536)
        except OSError:  # Linux: the other side is closed
            break
        began = time.monotonic() if began is None else began
        text = rest.decode(errors="ignore")
        rest = rest[len(text.encode()) :]  # a character may arrive in two pieces
        yield time.monotonic() - began, text
    os.close(ours)
    if process.wait():
        raise RuntimeError(f"{' '.join(command)} ended with exit code {process.returncode}")


def lines_of(output: Iterable[tuple[float, str]]) -> list[Line]:
    """Return every state of every line, from what a terminal received. Only knows the control codes that rich uses."""
    shown: dict[int, Line] = {}
    lines: list[Line] = []
    row = 0
    for seconds, text in output:
        for piece in _CONTROL.split(text):
            if piece == "\n":
                row += 1
            elif piece.endswith("A") and piece.startswith("\x1b["):
                row -= int(piece[2:-1] or 1)
            elif piece == "\x1b[2K":
                if row in shown:
                    shown.pop(row).end = seconds
            elif piece and piece != "\r" and (piece.endswith("m") or not piece.startswith("\x1b")):
                if row in shown and shown[row].start < seconds and not piece.startswith("\x1b"):
                    raise ValueError(f"a line was written in two pieces: {shown[row].text!r}, then {piece!r}")
                if row not in shown:
                    shown[row] = Line(row, "", seconds)
                    lines.append(shown[row])
                shown[row].text += piece
    return [line for line in lines if line.end != line.start and Text.from_ansi(line.text).plain.strip()]


def paced(lines: list[Line]) -> list[Line]:
    """Return the lines in PLAYING seconds, with no more states of the live line than an eye can follow."""
    pace = PLAYING / max(line.start for line in lines)
    kept: list[Line] = []
    last = None
    for line in lines:
        end = None if line.end is None else line.end * pace
        if end is not None and last is not None and last.row == line.row and end - (last.end or 0) < SHORTEST:
            last.end = end  # the state before it stays until this one's end
            continue
        kept.append(Line(line.row, line.text, line.start * pace, end))
        last = None if end is None else kept[-1]
    return kept


def draw(lines: list[Line]) -> str:
    """Return an SVG image that shows each line from its start on, in a loop.

    Viewers that do not animate show the end.
    """
    theme = SVG_EXPORT_THEME
    duration = max(line.start for line in lines) + AT_THE_END
    width, height = round(COLUMNS * CHARACTER) + 2 * MARGIN, ROWS * LINE + 2 * MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'font-family="ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="{FONT_SIZE}">',
            "<title>The demo in a terminal: the plan of the run, a row for each evaluation, the final metrics</title>",
            f'<rect width="{width}" height="{height}" rx="8" fill="{theme.background_color.hex}">'
            f'<animate id="play" attributeName="x" from="0" to="0" begin="0s;play.end" dur="{duration:.1f}s"/></rect>',
            f'<svg x="{MARGIN}" y="{MARGIN}" width="{width - 2 * MARGIN}" height="{ROWS * LINE}">',
            f'<g fill="{theme.foreground_color.hex}" transform="translate(0,{-_scrolled(lines)})">',
            _scrolling(lines, duration),
            *map(_draw_line, lines),
            "</g></svg></svg>\n",
        ]
    )


def _scrolled(lines: list[Line]) -> int:
    """Return how far, in pixels, the terminal has scrolled once these lines are shown."""
    return LINE * max(max(line.row for line in lines) + 1 - ROWS, 0)


def _scrolling(lines: list[Line], duration: float) -> str:
    moments = sorted({0.0, *(line.start for line in lines)})
    offsets = [_scrolled([line for line in lines if line.start <= moment]) for moment in moments]
    kept = [i for i in range(len(moments)) if i == 0 or offsets[i] != offsets[i - 1]]
    return (
        '<animateTransform attributeName="transform" type="translate" calcMode="discrete" begin="play.begin" '
        f'dur="{duration:.1f}s" values="{";".join(f"0,{-offsets[i]}" for i in kept)}" '
        f'keyTimes="{";".join(f"{moments[i] / duration:.5f}".rstrip("0").rstrip(".") for i in kept)}"/>'
    )


def _draw_line(line: Line) -> str:
    """Return a line that is hidden until its start; if it was erased again, it is visible until then only."""
    hidden = "" if line.end is None else ' visibility="hidden"'
    if line.end is not None:
        length = max(line.end - line.start, 0.01)
        change = f'to="visible" begin="play.begin+{line.start:.2f}s" dur="{length:.2f}s"'
    else:
        change = f'to="hidden" begin="play.begin" dur="{max(line.start, 0.01):.2f}s"'
    animation = f'<set attributeName="visibility" {change}/>'
    text = Text.from_ansi(line.text)
    words = "".join(_draw_words(text, match) for match in re.finditer(r"\S+(?: \S+)*", text.plain))
    return f'<g{hidden}>{animation}<text y="{line.row * LINE + FONT_SIZE}">{words}</text></g>'


def _draw_words(text: Text, match: re.Match[str]) -> str:
    """Return words separated by single spaces, at their column: columns line up in any font."""
    pieces, start = [], match.start()
    for end in sorted({match.end(), *(edge for span in text.spans for edge in span[:2])}):
        if start < end <= match.end():
            pieces.append(_draw_piece(text.plain[start:end], _style_at(text, start)))
            start = end
    return f'<tspan x="{match.start() * CHARACTER:.6g}">{"".join(pieces)}</tspan>'


def _style_at(text: Text, place: int) -> Style:
    styles = [Style.parse(str(span.style)) for span in text.spans if span.start <= place < span.end]
    return Style.combine(styles) if styles else Style.null()


def _draw_piece(words: str, style: Style) -> str:
    attributes = ""
    if style.color is not None and style.color.type != ColorType.DEFAULT:
        attributes += f' fill="{_hex(style.color)}"'
    if style.bold:
        attributes += ' font-weight="bold"'
    if style.dim:
        attributes += ' opacity="0.6"'
    return f"<tspan{attributes}>{escape(words)}</tspan>" if attributes else escape(words)


def _hex(color: Color) -> str:
    return color.get_truecolor(SVG_EXPORT_THEME).hex


def join_plots(folder: Path) -> Image.Image:
    """Return one picture of a run's curves, confusion matrix and worst mistakes, in few colors."""
    curves = Image.open(folder / "curves.png").convert("RGB")
    below = [Image.open(folder / name).convert("RGB") for name in ("confusion_matrix.png", "worst_mistakes.png")]
    height, gap = max(image.height for image in below), 24
    scaled = [image.resize((round(image.width * height / image.height), height), Image.LANCZOS) for image in below]
    width = max(curves.width, sum(image.width for image in scaled) + 3 * gap)
    page = Image.new("RGB", (width, curves.height + gap + height), "white")
    page.paste(curves, ((width - curves.width) // 2, 0))
    left = (width - sum(image.width for image in scaled) - gap) // 2
    for image in scaled:
        page.paste(image, (left, curves.height + gap))
        left += image.width + gap
    return page.quantize(192, kmeans=3, dither=Image.Dither.NONE)


def photograph(page: Path) -> Image.Image:
    """Return the top of a web page as chromium shows it, in few colors."""
    with tempfile.TemporaryDirectory() as folder:
        picture, window = Path(folder) / "page.png", f"--window-size={PAGE[0]},{PAGE[1]}"
        options = ["--headless", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", window]
        subprocess.run(["chromium", *options, f"--screenshot={picture}", page.resolve().as_uri()], check=True)
        return Image.open(picture).convert("RGB").quantize(128, kmeans=3, dither=Image.Dither.NONE)


if __name__ == "__main__":
    main()
