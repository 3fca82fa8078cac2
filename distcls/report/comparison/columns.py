"""The columns of a table of runs: their names, what each row has in them, and how that is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from distcls.config.differences import settings_that_differ
from distcls.config.metrics import METRICS, Metric
from distcls.config.yaml_text import as_plain, shown
from distcls.report.comparison.rows import Row
from distcls.runs.overview import SPLITS, Overview
from distcls.terminal.columns import clock, millions
from distcls.terminal.tables import INTERVAL

NAMES = ("run.name", "run.dir")
"""Settings that are known from the folder's name."""

LONGEST_VALUE = 30
"""Characters of a setting's value, such as a list."""

SPREAD = "± std"
"""Title of the column that accompanies a metric of groups."""

FIRST, MATTERS = 1, 3
"""Ranks of the metric that matters most, and of settings that change the run."""

LAST_SHOWN = 9
"""Columns of a higher rank are in the CSV only, unless they are asked for."""


@dataclass(frozen=True)
class Column:
    """A column: `values` has what each row has in it, None for nothing, and `texts` how people read that.

    A metric of a group of runs is the mean over them.
    """

    name: str
    """By which --sort, --columns and the CSV know it: val.accuracy, time, or the path of a setting."""
    title: str
    values: Sequence[Any]
    texts: Sequence[str]
    rank: int
    """Narrow terminals drop the columns with the highest rank first."""
    metric: Metric | None = None
    is_setting: bool = False
    spreads: Sequence[float | None] = ()
    """Of a metric: the standard deviation over the runs of each group; None for a single run."""
    intervals: Sequence[tuple[float, float] | None] = ()
    """Of a metric: the 95 % interval of each single run, if it is known."""

    def reordered(self, order: Sequence[int]) -> Column:
        """Return the column for the rows in another order, given as positions."""
        values, texts, spreads, intervals = (
            [of_rows[i] for i in order] if of_rows else of_rows
            for of_rows in (self.values, self.texts, self.spreads, self.intervals)
        )
        return replace(self, values=values, texts=texts, spreads=spreads, intervals=intervals)

    @property
    def is_number(self) -> bool:
        """True if all its values are numbers, so that it is aligned right."""
        return all(isinstance(value, int | float | None) and not isinstance(value, bool) for value in self.values)

    def companions(self) -> Iterator[tuple[str, list[float | None], list[str]]]:
        """Yield the columns that accompany a metric: the title, the values (of an interval, its low end), the texts."""
        if self.metric is not None and any(spread is not None for spread in self.spreads):
            yield SPREAD, list(self.spreads), ["" if one is None else self.metric.text(one) for one in self.spreads]
        if self.metric is not None and any(interval is not None for interval in self.intervals):
            texts = ["" if one is None else " to ".join(map(self.metric.text, one)) for one in self.intervals]
            yield INTERVAL, [None if one is None else one[0] for one in self.intervals], texts


def columns_of(rows: Sequence[Row], first: str) -> list[Column]:
    """Return the columns in which a row has something: the first metric, settings that differ, then everything else.

    first: the name of the metric that matters most, such as accuracy.
    """
    metrics, settings = list(_metrics(rows, first)), list(_settings(rows))
    columns = [
        *(column for column in metrics if column.rank == FIRST),
        *(column for column in settings if column.rank <= MATTERS),
        *_further(rows),
        *(column for column in metrics if column.rank > FIRST),
        *(column for column in settings if column.rank > MATTERS),
    ]
    return [column for column in columns if any(value is not None for value in column.values)]


def _metrics(rows: Sequence[Row], first: str) -> Iterator[Column]:
    for metric in sorted(METRICS.values(), key=lambda metric: (metric.name != first, not metric.in_summary)):
        for split in SPLITS:
            if metric.better is not None:
                yield _metric(rows, metric, split, metric.name == first)


def _metric(rows: Sequence[Row], metric: Metric, split: str, is_first: bool) -> Column:
    def of(run: Overview) -> float | None:
        return run.metrics[split].get(metric.name)

    values = [row.mean(of) for row in rows]
    return Column(
        name=f"{split}.{metric.name}",
        title=f"{split} {metric.title}",
        values=values,
        texts=["" if value is None else metric.text(value) for value in values],
        rank=FIRST if is_first else (6 if split == "test" else 8) if metric.in_summary else LAST_SHOWN + 1,
        metric=metric,
        spreads=[row.spread(of) for row in rows],
        intervals=[None if row.is_group else row.runs[0].intervals[split].get(metric.name) for row in rows],
    )


def _settings(rows: Sequence[Row]) -> Iterator[Column]:
    configs = [row.runs[0].config for row in rows]
    matters = settings_that_differ(configs)
    for path in settings_that_differ(configs, everything=True):
        if path not in NAMES:
            values = [row.agreed(lambda run, path=path: as_plain(run.config.at(path))) for row in rows]
            texts = [_text(value, row, path) for value, row in zip(values, rows, strict=True)]
            if any(texts):
                yield Column(path, path, values, texts, MATTERS if path in matters else LAST_SHOWN, is_setting=True)


def _text(value: Any, row: Row, path: str) -> str:
    """Return a setting's value for people; nothing for a group that does not agree on it."""
    if value is None and row.is_group and any(run.config.at(path) is not None for run in row.runs):
        return ""
    text = shown(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"


def _further(rows: Sequence[Row]) -> Iterator[Column]:
    yield Column("epochs", "epochs", [row.mean(lambda run: run.epoch) for row in rows], list(map(_epochs, rows)), 5)
    for name, rank, of, text in (
        ("time", 4, lambda run: run.seconds, clock),
        ("parameters", 7, lambda run: run.num_parameters, millions),
        ("size", 8, lambda run: run.num_bytes, lambda size: f"{size / 1e6:.3g} MB"),
    ):
        yield _plain(name, rank, [row.mean(of) for row in rows], text)
    for name, of in (
        ("device", lambda run: run.device),
        ("distcls", lambda run: run.versions.get("distcls")),
        ("torch", lambda run: run.versions.get("torch")),
    ):
        values = [row.agreed(of) for row in rows]
        if len(set(values)) > 1:
            yield _plain(name, LAST_SHOWN, values, str)


def _plain(name: str, rank: int, values: Sequence[Any], text: Callable[[Any], str]) -> Column:
    return Column(name, name, values, ["" if value is None else text(value) for value in values], rank)


def _epochs(row: Row) -> str:
    """Return "30", or "12.5/30" for a run that ended earlier, or has not ended."""
    reached, planned = row.mean(lambda run: run.epoch), row.mean(lambda run: run.num_epochs)
    if reached is None or planned is None:
        return "" if reached is None else _two_decimals(reached)
    if row.runs[0].is_finished and abs(reached - planned) < 0.5:
        return _two_decimals(planned)
    return f"{_two_decimals(min(reached, planned))}/{_two_decimals(planned)}"


def _two_decimals(number: float) -> str:
    """Return "30", "12.5" or "0.79"."""
    return f"{number:.2f}".rstrip("0").rstrip(".")
