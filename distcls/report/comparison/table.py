"""Puts runs into the rows and columns of a table: reads their folders, groups repetitions, filters and sorts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from distcls.config.messages import settings_like
from distcls.config.schema import hint_at
from distcls.config.wording import count, either, nearest
from distcls.config.yaml_text import as_plain, read_override, shown
from distcls.errors import DistclsError, MissingInputError, UsageError
from distcls.files.atomic import printable
from distcls.report.comparison.columns import Column, columns_of
from distcls.report.comparison.rows import Row, grouped_rows, single_rows
from distcls.runs.listing import find_runs, is_run, short_names
from distcls.runs.overview import SPLITS, Overview, read_overview

MOST_TESTED = 6
"""Rows whose differences are tested. Among more, some would look real by chance, and each pair takes a sentence."""


@dataclass(frozen=True)
class Table:
    """Runs, as rows and columns."""

    rows: Sequence[Row]
    columns: Sequence[Column]
    sorted_by: Column | None
    """None: the rows are in the order of the folders."""
    metric: str
    """The metric that matters most: what most of the runs chose their best weights by."""
    skipped: Sequence[str]
    """A sentence for each folder that could not be read."""

    @property
    def runs(self) -> list[Overview]:
        """All runs, each once."""
        return list({run.dir: run for row in self.rows for run in row.runs}.values())

    @property
    def is_one_group(self) -> bool:
        """True if all runs are one group. Then it is the last row, below its members."""
        return len(self.rows) > 1 and len(self.rows[-1].runs) == len(self.runs) > 1

    def column(self, name: str) -> Column:
        """Return a column by its name or a part of it: val.accuracy, accuracy, optim.lr, lr. Raises UsageError."""
        by_name = {column.name: column for column in self.columns}
        likely = [name, *(f"{split}.{name}" for split in SPLITS)]
        likely += [column.name for column in self.columns if column.name.endswith(f".{name}")]
        found = next((by_name[one] for one in likely if one in by_name), None)
        if found is None:
            raise UsageError(
                f"there is no column {name!r}.{nearest(name, by_name)} The columns are {', '.join(by_name)}"
            )
        return found


def build_table(
    given: Sequence[Path],
    sort: str | None = None,
    reverse: bool = False,
    filters: Sequence[str] = (),
    group: bool = True,
) -> Table:
    """Return the table of run folders, and of those directly inside folders that are not runs.

    sort: the name of a column; by default, folders of runs are sorted by the metric of the best weights on val, and
    runs that were named one by one stay in their order. filters: such as "optim.lr=0.1" or "state=finished". group:
    make one row of the runs that repeat each other with another seed or fold.

    Raises MissingInputError if there is no run that can be read, UsageError for an unknown column or filter.
    """
    run_dirs = find_runs(given)
    runs, names, skipped = _read(run_dirs)
    kept = [i for i, run in enumerate(runs) if all(_matches(one, names[i], run) for one in filters)]
    if not kept:
        raise UsageError(f"none of {count(len(runs), 'run')} matches {' and '.join(filters)}.")
    runs, names = [runs[i] for i in kept], [names[i] for i in kept]
    metric = Counter(run.config.train.best_metric for run in runs).most_common(1)[0][0]
    rows = single_rows(runs, names)
    if group:
        groups = grouped_rows(runs, names)
        rows = [*rows, *groups] if len(groups) == 1 and len(rows) > 1 else groups  # all of one group: show its members
    columns = columns_of(rows, metric)
    table = Table(rows, columns, None, metric, skipped)
    if sort is None and any(not is_run(path) for path in given):
        sort = next((column.name for column in columns if column.name in [f"{one}.{metric}" for one in SPLITS]), None)
    return _sorted(table, sort, reverse)


def _read(run_dirs: Sequence[Path]) -> tuple[list[Overview], list[str], list[str]]:
    """Return the runs, their names, and a sentence for each that cannot be read. Raises MissingInputError."""
    runs, names, skipped = [], [], []
    for run_dir, name in zip(run_dirs, short_names(run_dirs), strict=True):
        try:
            runs.append(read_overview(run_dir))
            names.append(printable(name))
        except DistclsError as error:
            skipped.append(f"skipped {name}: {error}")
    if not runs:
        raise MissingInputError("\n".join(["there is no run to show.", *skipped]))
    return runs, names, skipped


def _matches(condition: str, name: str, run: Overview) -> bool:
    key, equals, pattern = condition.partition("=")
    if not equals:
        raise UsageError(f"--filter {condition}: write KEY=VALUE, such as state=finished or optim.lr=0.1")
    known = {"run": name, "state": run.state}
    if key in known:
        return fnmatchcase(known[key], pattern)
    try:
        value = as_plain(run.config.at(key))
    except AttributeError:
        if hint_at(key.split(".")) is not None:  # its section is off in this run
            return False
        meant = settings_like(key)
        raise UsageError(
            f"--filter {condition}: there is no setting {key!r}. "
            + (f"Did you mean {either(meant)}?" if meant else "Give run, state or a setting such as optim.lr.")
        ) from None
    return shown(value) == pattern or fnmatchcase(shown(value), pattern) or _is_value(value, condition)


def _is_value(value: Any, condition: str) -> bool:
    """True if a setting has the value of a condition, read as an argument: 1e-3 is 0.001, and 20 is 20.0."""
    try:
        given = read_override(condition)[1].plain()
    except UsageError:  # a pattern such as *net
        return False
    return given == value and isinstance(given, bool) == isinstance(value, bool)  # for Python, true is 1


def _sorted(table: Table, sort: str | None, reverse: bool) -> Table:
    """Return the table in another order: the best first, rows without a value last, and means below their runs."""
    order = list(range(len(table.rows)))
    if sort in (None, "run"):
        order = order[::-1] if reverse else order
    else:
        by = table.column(sort)
        is_down = (by.metric is not None and by.metric.better == "higher") != reverse
        order.sort(key=lambda i: _sort_key(by.values[i]), reverse=is_down)
        order.sort(key=lambda i: by.values[i] is None)
        table = replace(table, sorted_by=by.reordered(order))
    if table.is_one_group:
        order = [*(i for i in order if not table.rows[i].is_group), len(order) - 1]
    return replace(
        table,
        rows=[table.rows[i] for i in order],
        columns=[column.reordered(order) for column in table.columns],
    )


def _sort_key(value: Any) -> tuple[bool, Any]:
    """Sort numbers before text."""
    is_number = isinstance(value, int | float)
    return not is_number, value if is_number else shown(value)
