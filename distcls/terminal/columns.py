"""Lays out rows of text in columns that fit a terminal, and shortens numbers for them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

GAP = "  "
NARROWEST = 8
"""Terminal cells to which a column of text is shortened at most."""


def lay_out(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int, width: int) -> list[str]:
    """Return the lines of a table, its head first.

    The first `texts` columns are text: they are aligned left and, if the table is wider than `width`, the widest of
    them is shortened. The others are numbers, aligned right.
    """
    table = [head, *rows]
    widths = [max(cell_len(row[column]) for row in table) for column in range(len(head))]
    excess = sum(widths) + len(GAP) * (len(widths) - 1) - width
    while excess > 0 and texts and max(widths[:texts]) > NARROWEST:
        widths[widths.index(max(widths[:texts]))] -= 1
        excess -= 1
    return [GAP.join(_cell(text, widths[i], i < texts) for i, text in enumerate(row)).rstrip() for row in table]


def _cell(text: str, width: int, is_text: bool) -> str:
    if cell_len(text) > width:
        text = set_cell_size(text, width - 1) + "…"
    space = " " * (width - cell_len(text))
    return text + space if is_text else space + text


def three_digits(number: float) -> str:
    """Return text such as 0.545, 3.63, 86.6 or 1,843: three digits, or more for large numbers."""
    for limit, digits in ((1, 3), (10, 2), (100, 1)):
        if number < limit:
            return f"{number:.{digits}f}"
    return f"{number:,.0f}"


def millions(number: int) -> str:
    """Return text such as "0.545 M", with three digits."""
    return f"{three_digits(number / 1e6)} M"


def clock(seconds: float | None) -> str:
    """Return h:mm:ss, or nothing if the time is unknown."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    minutes, second = divmod(round(max(seconds, 0)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"
