"""Formats metrics for people: a row for each evaluation of a run, and tables of its results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len, set_cell_size

from distcls.config.metrics import METRICS, TRAIN_MEANS, Metric
from distcls.files.atomic import printable

MOST_CLASSES = 10
"""Classes in a table: if there are more, it shows the worst."""

INTERVAL = "95 % interval"

LONGEST_NAME = 30
"""Terminal cells that a class name may take."""


@dataclass(frozen=True)
class Column:
    """A column of the table of evaluations. A narrow terminal drops those with the highest `rank` first."""

    name: str
    title: str
    width: int
    rank: int
    format: str


def _of_metric(metric: Metric) -> list[Column]:
    """Return a metric's column, preceded by one for training if training measures the metric too."""
    if metric.rank is None:
        return []
    titles = {metric.name: f"val {metric.title}" if metric.of_training else metric.title}
    if metric.of_training:
        titles = {f"train_{metric.name}": f"train {metric.title}", **titles}
    return [
        Column(name, title, max(len(title), 7), 2 if name in TRAIN_MEANS else metric.rank, metric.format)
        for name, title in titles.items()
    ]


COLUMNS = [
    Column("epoch", "epoch", 6, 0, ".1f"),
    Column("step", "step", 7, 4, "d"),
    *(column for metric in METRICS.values() for column in _of_metric(metric)),
    Column("best", "best", 4, 0, "s"),
    Column("time", "time", 7, 1, "s"),
]


class EvaluationTable:
    """Evaluations on the val split, one line each, as wide as the terminal was at the first one."""

    def __init__(self, first_row: Mapping[str, Any], width: int) -> None:
        self.columns = _columns_that_fit(first_row, width)

    def head(self) -> str:
        """Return the header line."""
        return "  ".join(f"{column.title:>{column.width}}" for column in self.columns)

    def line(self, row: Mapping[str, Any]) -> str:
        """Return the line of one evaluation. Missing values stay blank; other names are ignored."""
        return "  ".join(f"{_cell(column, row.get(column.name)):>{column.width}}" for column in self.columns)


def summary_table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the lines of a table of final metrics, with a row for each split, or whatever else was measured."""
    shown = [metric for metric in _found_in(rows) if metric.in_summary]
    indent = max(map(len, ["test", *rows])) + 1
    lines = [" " * indent + "".join(f"{metric.title:>10}" for metric in shown)]
    for title, values in rows.items():
        lines.append(f"{title:<{indent}}" + "".join(f"{_text(metric, values):>10}" for metric in shown))
    return lines if shown else []


def full_table(columns: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the lines of a table of all metrics, with a row for each metric and a column for each split.

    A split whose values have "intervals" gets a second column for them.
    """
    shown = _found_in(columns)
    indent = max((len(metric.title) for metric in shown), default=0) + 1
    head, lines = " " * indent, [f"{metric.title:<{indent}}" for metric in shown]
    for title, values in columns.items():
        head += f"{title:>10}" + (f"{INTERVAL:>20}" if "intervals" in values else "")
        for i, metric in enumerate(shown):
            lines[i] += f"{_text(metric, values):>10}" + _interval(metric, values)
    return [head.rstrip(), *(line.rstrip() for line in lines)]


def _interval(metric: Metric, values: Mapping[str, Any]) -> str:
    found = values.get("intervals", {}).get(metric.name)
    return "" if found is None else f"{' to '.join(metric.text(value) for value in found):>20}"


def class_table(by_class: Mapping[str, Mapping[str, Any]]) -> tuple[str, list[str]]:
    """Return a title and the lines of a table of the classes that have images: all of them, or the worst by F1.

    by_class: as in metrics.json, {"cat": {"precision", "recall", "f1", "count"}, …}.
    """
    classes = [(name, values) for name, values in by_class.items() if values["count"]]
    title = "by class"
    if len(classes) > MOST_CLASSES:
        title = f"the {MOST_CLASSES} worst of {len(classes):,} classes, by F1"
        classes = sorted(classes, key=lambda item: item[1]["f1"])[:MOST_CLASSES]
    names = [_shorten(name) for name, _ in classes]
    indent = max(map(cell_len, names), default=0) + 1
    lines = [" " * indent + "".join(f"{title:>10}" for title in ("precision", "recall", "F1", "images"))]
    for name, (_, values) in zip(names, classes, strict=True):
        cells = [f"{values[key]:>10.4f}" for key in ("precision", "recall", "f1")]
        lines.append(set_cell_size(name, indent) + "".join(cells) + f"{values['count']:>10,}")
    return title, lines if classes else []


def _shorten(name: str) -> str:
    name = printable(name)
    return name if cell_len(name) <= LONGEST_NAME else set_cell_size(name, LONGEST_NAME - 1) + "…"


def _found_in(rows: Mapping[str, Mapping[str, Any]]) -> list[Metric]:
    found = [metric for metric in METRICS.values() if any(row.get(metric.name) is not None for row in rows.values())]
    return [metric for metric in found if metric.name != "top5" or all(map(_has_top5, rows.values()))]


def _text(metric: Metric, values: Mapping[str, Any]) -> str:
    value = values.get(metric.name)
    return "" if value is None else metric.text(value)


def _columns_that_fit(row: Mapping[str, Any], width: int) -> list[Column]:
    absent = {name for name in TRAIN_MEANS if row.get(name) is None} | (set() if _has_top5(row) else {"top5"})
    columns = [column for column in COLUMNS if column.name not in absent]
    while sum(column.width + 2 for column in columns) - 2 > width:
        columns.remove(max(columns, key=lambda column: column.rank))
    return columns


def _has_top5(row: Mapping[str, Any]) -> bool:
    """True if the row has a meaningful top-5 accuracy: with five classes it is always 1."""
    by_class = row.get("by_class") or row.get("accuracy_by_class") or range(6)  # the latter is from version 0.1.0
    return row.get("top5") is not None and len(by_class) > 5


def _cell(column: Column, value: Any) -> str:
    if value is None:
        return ""
    text = format(value, column.format)
    return text if len(text) <= column.width else format(value, ".3g")  # a loss that diverges
