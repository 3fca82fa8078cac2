"""Prints a table of runs, as wide as the terminal, and what else there is to say about them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len

from distcls.config.wording import count
from distcls.files.atomic import printable
from distcls.report.comparison.columns import LAST_SHOWN, Column
from distcls.report.comparison.footnotes import footnotes, headline
from distcls.report.comparison.rows import Row
from distcls.report.comparison.table import Table
from distcls.terminal.columns import GAP, lay_out
from distcls.terminal.screens import NoScreen, open_screen

SIDE_BY_SIDE = 4
"""With so many rows at most, settings have a table of their own, with a column for each row."""

LONGEST_NAME = 30
"""Terminal cells that the name of a run takes at most, if columns would be dropped otherwise."""

MOST_REASONS = 8
"""Runs that failed or stopped, and are shown with the reason."""

MOST_NAMED = 4
"""Columns that are named if they do not fit."""

MARK = " *"
"""Stands behind the title of the column by which rows are sorted."""

STYLES = {"running": "cyan", "preempted": "yellow", "killed": "yellow", "unknown": "yellow", "failed": "red"}


@dataclass(frozen=True)
class _Printed:
    """A column as it is printed: a metric's spread and interval have their own."""

    title: str
    texts: Sequence[str]
    rank: int

    @property
    def width(self) -> int:
        return max(map(cell_len, [self.title, *self.texts]))


def print_table(table: Table, sentences: Sequence[str], asked: Sequence[str] | None = None) -> None:
    """Print a row for each run or group, the settings that differ, and sentences such as those of remarks.py.

    asked: the names of the columns to show; by default those that fit. Raises UsageError for a name that is none.
    """
    chosen = None if asked is None else [table.column(name) for name in asked]
    screen = open_screen(sys.stdout)
    screen.say(headline(table), "bold")
    screen.say("")
    apart = chosen is None and 1 < len(table.rows) <= SIDE_BY_SIDE
    if chosen is None:
        chosen = [column for column in table.columns if column.rank <= LAST_SHOWN]
        chosen = [column for column in chosen if not (apart and column.is_setting)]
    hidden = _print_rows(screen, table, chosen)
    if apart:
        _print_settings(screen, table)
    _print_reasons(screen, table)
    for sentence in sentences:
        screen.say("")
        screen.say(sentence)
    _print_footnotes(screen, table, hidden)


def _print_rows(screen: NoScreen, table: Table, chosen: Sequence[Column]) -> list[str]:
    """Print the table itself; return the titles of the columns for which it is too narrow."""
    names = [row.name for row in table.rows]
    states = [row.state for row in table.rows]
    texts = [("run", names), *([("state", states)] if set(states) != {"finished"} else [])]
    shown = [printed for column in chosen for printed in _printed(column, table)]
    left = screen.width - sum(len(GAP) + min(max(map(cell_len, [title, *of])), LONGEST_NAME) for title, of in texts)
    hidden: list[_Printed] = []
    while shown and sum(printed.width + len(GAP) for printed in shown) > left + len(GAP):
        hidden.insert(0, max(reversed(shown), key=lambda printed: printed.rank))
        shown.remove(hidden[0])
    head = [*(title for title, _ in texts), *(printed.title for printed in shown)]
    rows = [[*(of[i] for _, of in texts), *(printed.texts[i] for printed in shown)] for i, _ in enumerate(table.rows)]
    title, *lines = lay_out(head, rows, len(texts), screen.width)
    screen.say(title, "bold")
    best = _best(table)
    for row, line in zip(table.rows, lines, strict=True):
        screen.say(line, "green" if row is best else STYLES.get(row.state, ""))
    shown_titles = {printed.title for printed in shown}
    return [
        column.title
        for column in chosen
        if column.title not in shown_titles and f"{column.title}{MARK}" not in shown_titles
    ]


def _printed(column: Column, table: Table) -> Iterator[_Printed]:
    mark = MARK if table.sorted_by is not None and table.sorted_by.name == column.name else ""
    yield _Printed(column.title + mark, column.texts, 0 if mark else column.rank)
    for title, _, texts in column.companions():
        yield _Printed(title, texts, column.rank + 1)


def _best(table: Table) -> Row | None:
    """Return the row with the best value of the metric that rows are sorted by, even if --reverse puts it last."""
    by = None if table.sorted_by is None else table.column(table.sorted_by.name)
    if by is None or by.metric is None or len(table.rows) < 2:
        return None
    found = [(value, row) for value, row in zip(by.values, table.rows, strict=True) if value is not None]
    choose = max if by.metric.better == "higher" else min
    return choose(found, key=lambda pair: pair[0])[1] if found else None


def _print_settings(screen: NoScreen, table: Table) -> None:
    settings = [column for column in table.columns if column.is_setting]
    if not settings:
        return
    screen.say("")
    head = ["settings that differ", *(row.name for row in table.rows)]
    title, *lines = lay_out(head, [[column.name, *column.texts] for column in settings], len(head), screen.width)
    screen.say(title, "bold")
    for line in lines:
        screen.say(line)


def _print_reasons(screen: NoScreen, table: Table) -> None:
    """Print why runs did not finish, a line each."""
    ended = [row for row in table.rows if not row.is_group and row.runs[0].reason and row.state != "running"]
    ended = [row for row in ended if not row.runs[0].is_finished]
    if not ended:
        return
    rows = [[row.name, row.state, " ".join((row.runs[0].reason or "").split())] for row in ended[:MOST_REASONS]]
    screen.say("")
    for line, row in zip(lay_out(["not finished", "", ""], rows, 3, screen.width), [None, *ended], strict=False):
        screen.say(line, "bold" if row is None else STYLES.get(row.state, ""))
    if len(ended) > MOST_REASONS:
        screen.say(f"and {len(ended) - MOST_REASONS} more")


def _print_footnotes(screen: NoScreen, table: Table, hidden: Sequence[str]) -> None:
    notes = footnotes(table)
    if table.sorted_by is not None:
        notes.insert(0, f"* sorted by {table.sorted_by.title}")
    if hidden:
        names = ", ".join(hidden[:MOST_NAMED])
        names += f" and {count(len(hidden) - MOST_NAMED, 'more column')}" if len(hidden) > MOST_NAMED else ""
        notes.append(f"Not shown: {names}. Use a wider terminal, --columns, --csv or --html.")
    for note in ["", *notes] if notes else []:
        screen.say(note)
    for sentence in ["", *table.skipped] if table.skipped else []:
        screen.say(printable(sentence), "yellow")
