"""Draws line charts for web pages as SVG; the page's script shows the values below the pointer."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from distcls.report.html.page import render

WIDTH, HEIGHT = 440, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 34
"""Margins around the lines, in the units of WIDTH and HEIGHT."""

MOST_POINTS = 300
"""Points of one line. More would make the file large, and no screen could show them."""

TINY = 1e-3
"""Values below this are shown with three digits, however few places they are usually given."""

NUM_COLORS = 8
"""Colors in parts/page.css, from s0 to s7."""


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    name: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    color: int = 0
    """Its number in parts/page.css; numbers start again after the last."""
    is_faint: bool = False
    """Drawn thin and pale, as for single steps behind their means."""
    is_dashed: bool = False
    is_points: bool = False
    """Drawn as points that no line connects."""
    star: float | None = None
    """The x of a point to mark."""


@dataclass(frozen=True)
class _Axis:
    """Turns values into positions, and has the values to write beside the axis."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def place(self, values: np.ndarray) -> np.ndarray:
        low, high, at = (np.log10(v) if self.is_log else np.asarray(v) for v in (self.low, self.high, values))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        if self.is_log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            few = (1, 2, 5) if len(decades) <= 3 else (1,)
            return [t for d in decades for m in few if self.low <= (t := m * 10.0**d) <= self.high]
        step = _nice((self.high - self.low) / 6)
        first = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def line_chart(
    title: str,
    lines: Sequence[Line],
    text: Callable[[float], str],
    x_name: str = "epoch",
    from_zero: bool = False,
    log: bool = False,
) -> Markup:
    """Return a card with a chart, its legend and the data for the page's script.

    Points that are not finite are left out. text: formats a value of y for people, beside the axis too. from_zero: y
    starts at 0. log: if all y are positive.
    """
    drawn = [(line, *_finite(line)) for line in lines]
    drawn = [(line, x, y) for line, x, y in drawn if len(x)]
    if not drawn:
        return render("chart.html", title=title, lines=[], data={})
    all_x, all_y = np.concatenate([x for _, x, _ in drawn]), np.concatenate([y for _, _, y in drawn])
    log = log and float(all_y.min()) > 0
    x_axis = _Axis(*_spread(min(0.0, all_x.min()), all_x.max()), LEFT, WIDTH - RIGHT)
    low, high = float(0 if from_zero else all_y.min()), float(all_y.max())
    y_axis = _Axis(*_spread(low, high, log), HEIGHT - BOTTOM, TOP, log)
    shown = [_draw(line, x, y, x_axis, y_axis, text) for line, x, y in drawn]
    return render(
        "chart.html",
        title=title,
        lines=shown,
        x_name=x_name,
        frame={"left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM, "w": WIDTH, "h": HEIGHT},
        x_ticks=[(x_axis.place(np.array(t)).item(), f"{t:g}") for t in x_axis.ticks()],
        y_ticks=[(y_axis.place(np.array(t)).item(), f"{t:g}" if log else _short(text(t))) for t in y_axis.ticks()],
        data={
            "x": x_name,
            "lines": [{key: line[key] for key in ("name", "color", "points")} for line in shown if not line["faint"]],
        },
    )


def _draw(
    line: Line, x: np.ndarray, y: np.ndarray, x_axis: _Axis, y_axis: _Axis, text: Callable[[float], str]
) -> dict[str, object]:
    """Return what the template needs of a line: its path, and points with their texts for the pointer."""
    left, top = x_axis.place(x).round(1).tolist(), y_axis.place(y).round(1).tolist()
    marked = None if line.star is None else int(np.abs(x - line.star).argmin())
    return {
        "name": line.name,
        "color": line.color % NUM_COLORS,
        "faint": line.is_faint,
        "dashed": line.is_dashed,
        "path": "M" + "L".join(f"{a:g} {b:g}" for a, b in zip(left, top, strict=True)),
        "is_points": line.is_points,
        "dots": list(zip(left, top, strict=True)) if len(left) <= 40 or line.is_points else [],
        "star": None if marked is None else (left[marked], top[marked]),
        "points": [
            [left[i], top[i], f"{x[i]:.4g}", _precise(float(y[i]), text)]
            for i in (range(len(left)) if not line.is_faint else ())
        ],
    }


def _precise(value: float, text: Callable[[float], str]) -> str:
    """Return a value's text, with digits also if the value is tiny."""
    shown = text(value)
    return shown if value == 0 or abs(value) >= TINY or "%" in shown else f"{value:.3g}"


def _finite(line: Line) -> tuple[np.ndarray, np.ndarray]:
    """Return at most MOST_POINTS points of a line and the one to mark, without those that are not finite."""
    x, y = np.asarray(line.x, float), np.asarray(line.y, float)
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    rows = np.linspace(0, len(x) - 1, min(len(x), MOST_POINTS)).round().astype(int)
    if line.star is not None and len(x):
        rows = np.union1d(rows, [np.abs(x - line.star).argmin()])
    return x[rows], y[rows]


def _spread(low: float, high: float, log: bool = False) -> tuple[float, float]:
    """Return limits with some space, if the values are all the same too."""
    if log:
        return low / 1.1, high * 1.1
    space = 0.04 * (high - low) or abs(high) * 0.1 or 1.0
    return (low if low == 0 else low - space), high + space


def _short(text: str) -> str:
    """Return a number's text without the zeros at its end: 90% for 90.00%."""
    return re.sub(r"(\.\d*?)0+(?=\D*$)", r"\1", text).replace(".%", "%").removesuffix(".")


def _nice(step: float) -> float:
    """Return 1, 2, 2.5 or 5 times a power of ten, at least `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next((m * power for m in (1, 2, 2.5, 5) if m * power >= step), 10 * power)
