"""Metrics as people read them: a row for each evaluation of a run, and the table of what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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


class EvaluationTable:
    """Evaluations of the val split, a line for each; as wide as the terminal was at the first."""

    def __init__(self, first_row: Mapping[str, Any], width: int) -> None:
        self.columns = _columns_that_fit(first_row, width)

    def head(self) -> str:
        """The line above."""
        return "  ".join(f"{column.title:>{column.width}}" for column in self.columns)

    def line(self, row: Mapping[str, Any]) -> str:
        """One evaluation. What is missing stays blank; other names are ignored."""
        return "  ".join(f"{_cell(column, row.get(column.name)):>{column.width}}" for column in self.columns)


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


def _columns_that_fit(row: Mapping[str, Any], width: int) -> list[Column]:
    columns = [column for column in COLUMNS if column.name != "top5" or _has_top5(row)]
    while sum(column.width + 2 for column in columns) - 2 > width:
        columns.remove(max(columns, key=lambda column: column.rank))
    return columns


def _has_top5(row: Mapping[str, Any]) -> bool:
    """Whether the row has a top-5 accuracy that says something: of five classes it is always 1."""
    return row.get("top5") is not None and len(row.get("accuracy_by_class", range(6))) > 5


def _cell(column: Column, value: Any) -> str:
    if value is None:
        return ""
    too_wide = isinstance(value, float) and abs(value) >= 10 ** (column.width - 5)  # a loss that diverges
    return format(value, ".3g" if too_wide else column.format)
