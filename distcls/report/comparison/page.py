"""Writes the page that compares runs: a table to sort, the settings that differ, and curves over each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from markupsafe import Markup

from distcls.report.comparison.columns import LAST_SHOWN, Column
from distcls.report.comparison.curves import overlaid_curves
from distcls.report.comparison.footnotes import footnotes, headline
from distcls.report.comparison.rows import Row
from distcls.report.comparison.table import MOST_TESTED, Table
from distcls.report.html.charts import NUM_COLORS
from distcls.report.html.page import Section, grid, joined, write_page
from distcls.report.html.tables import ABSENT, Cell, leading_to, number, table

MOST_NAMED = 3
"""Rows that are named in the title."""

STYLES = {"failed": "bad", "finished": "", "running": "good"}
"""How the page shows states, if not dim."""


def write_comparison(runs: Table, sentences: Sequence[str], path: Path) -> None:
    """Write the page. sentences: what may be chance, from remarks.py. Raises DiskError."""
    apart = 1 < len(runs.rows) <= MOST_TESTED
    sections = [Section("Runs", _rows(runs, path.parent, not apart), " ".join(footnotes(runs)))]
    settings = [column for column in runs.columns if column.is_setting]
    if apart and settings:
        note = f"Marked: not as in {runs.rows[0].name}."
        sections.append(Section("Settings that differ", _settings(runs.rows, settings), note))
    if sentences:
        sections.append(Section("What may be chance", joined(Markup("<p>{}</p>").format(one) for one in sentences)))
    charts = overlaid_curves(runs.rows)
    if charts:
        sections.append(Section("Curves", grid(charts), _about_curves(runs)))
    stopped = [run for run in runs.runs if not run.is_finished]
    if stopped or runs.skipped:
        sections.append(Section("Not finished", _unfinished(runs)))
    write_page(path, _title(runs), sections, headline(runs), "" if len(runs.rows) > MOST_NAMED else "Comparison")


def _title(runs: Table) -> str:
    names = [row.name for row in runs.rows]
    return " · ".join(names) if len(names) <= MOST_NAMED else "Comparison of runs"


def _rows(runs: Table, folder: Path, with_settings: bool) -> Markup:
    """Return the table with a row for each run or group, whose names lead to their own reports."""
    shown = [
        column for column in runs.columns if column.rank <= LAST_SHOWN and (with_settings or not column.is_setting)
    ]
    head, columns = ["run"], [[_name(row, folder) for row in runs.rows]]
    if any(row.state != "finished" for row in runs.rows):
        head.append("state")
        columns.append([Cell(row.state, style=STYLES.get(row.state, "dim")) for row in runs.rows])
    for column in shown:
        for title, cells in _cells(column):
            head.append(title)
            columns.append(cells)
    return table(head, list(zip(*columns, strict=True)), tall=len(runs.rows) > 25)


def _name(row: Row, folder: Path) -> Cell:
    if row.is_group:
        return Cell(row.name, style="short")
    return leading_to(row.name, row.runs[0].dir / "report.html", folder)


def _cells(column: Column) -> Iterator[tuple[str, list[Cell]]]:
    """Yield the title and the cells of a column, and of those that accompany a metric."""
    usual = Counter(column.texts).most_common(1)[0][0]
    plain = map(number, column.values, column.texts) if column.is_number else map(Cell, column.texts)
    marked = [column.is_setting and text != usual for text in column.texts]
    yield (
        column.title,
        [replace(cell, style="short differs" if mark else "short") for cell, mark in zip(plain, marked, strict=True)],
    )
    for title, values, texts in column.companions():
        yield title, [Cell(text, ABSENT if value is None else value) for value, text in zip(values, texts, strict=True)]


def _settings(rows: Sequence[Row], settings: Sequence[Column]) -> Markup:
    lines = [
        [column.name, *(Cell(text, style="" if text == column.texts[0] else "differs") for text in column.texts)]
        for column in settings
    ]
    return table(["setting", *(row.name for row in rows)], lines, sortable=False)


def _about_curves(runs: Table) -> str:
    most = f" The first {NUM_COLORS} rows are drawn." if len(runs.rows) > NUM_COLORS else ""
    means = " Thick lines are means over the pale ones." if any(row.is_group for row in runs.rows) else ""
    return f"Move over a curve to read its values.{most}{means}"


def _unfinished(runs: Table) -> Markup:
    names = {run.dir: row.name for row in runs.rows for run in row.runs}
    lines = [
        [names[run.dir], Cell(run.state, style=STYLES.get(run.state, "dim")), run.reason or ""]
        for run in runs.runs
        if not run.is_finished
    ]
    lists = [table(["run", "state", "reason"], lines, tall=len(lines) > 25)] if lines else []
    return joined([*lists, *(Markup("<p>{}</p>").format(one) for one in runs.skipped)])
