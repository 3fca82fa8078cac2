"""Draws parallel coordinates as SVG: an axis for each number or choice, and for each trial a line through all."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from distcls.report.html.page import render

SPACING, HEIGHT = 150, 340
LEFT, TOP, BOTTOM = 70, 50, 20
"""Margins, in the units of the picture."""

FAINTEST = 0.15
"""Opacity of the worst line."""


@dataclass(frozen=True)
class Axis:
    """One upright axis: the numbers of all lines, or the places of their choices in `choices`."""

    title: str
    values: Sequence[float]
    texts: Sequence[str]
    """The values, for people."""
    choices: Sequence[str] = ()
    is_log: bool = False


def parallel_coordinates(title: str, axes: Sequence[Axis], ranks: Sequence[float], best: Sequence[bool]) -> Markup:
    """Return a card with a line for each trial, which shows its values below the pointer.

    ranks: how good each is, from 0 to 1, drawn as how opaque its line is. best: lines to stand out.
    """
    places = [_places(axis) for axis in axes]
    shown_axes = [
        {"title": axis.title, "x": LEFT + number * SPACING, "labels": _labels(axis, at)}
        for number, (axis, at) in enumerate(zip(axes, places, strict=True))
    ]
    order = sorted(range(len(ranks)), key=lambda i: (best[i], ranks[i]))  # the best are drawn last, above the others
    lines = [
        {
            "points": " ".join(f"{LEFT + n * SPACING},{at[i]:.1f}" for n, at in enumerate(places)),
            "opacity": f"{FAINTEST + (1 - FAINTEST) * ranks[i]:.2f}",
            "tip": "\n".join(f"{axis.title} {axis.texts[i]}" for axis in axes),
            "is_best": best[i],
        }
        for i in order
    ]
    width = LEFT * 2 + SPACING * (len(axes) - 1)
    return render(
        "parallel.html",
        title=title,
        axes=shown_axes,
        lines=lines,
        width=width,
        height=HEIGHT,
        top=TOP,
        bottom=HEIGHT - BOTTOM,
    )


def _places(axis: Axis) -> list[float]:
    """Return where each line crosses the axis."""
    values = [math.log10(value) if axis.is_log else value for value in axis.values]
    low, high = (0.0, len(axis.choices) - 1.0) if axis.choices else (min(values), max(values))
    span = high - low
    shares = [(value - low) / span if span else 0.5 for value in values]
    return [HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP) for share in shares]


def _labels(axis: Axis, places: Sequence[float]) -> list[tuple[float, str]]:
    """Return the positions and texts to write beside an axis: all choices, or the ends of the numbers."""
    if axis.choices:
        at_choices = _places(dataclasses.replace(axis, values=range(len(axis.choices))))
        return [(round(place, 1), text) for place, text in zip(at_choices, axis.choices, strict=True)]
    low, high = (of(range(len(places)), key=lambda i: axis.values[i]) for of in (min, max))
    return [(round(places[i], 1), axis.texts[i]) for i in dict.fromkeys((low, high))]
