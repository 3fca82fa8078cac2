"""Says what to mind in a table of runs: which of its numbers are not final, and which do not belong together."""

from __future__ import annotations

from collections import Counter

from distcls.config.wording import count
from distcls.report.comparison.columns import SPREAD
from distcls.report.comparison.table import Table
from distcls.terminal.tables import INTERVAL


def headline(table: Table) -> str:
    """Return a line such as "3 runs", or "3 runs: 2 finished, 1 failed"."""
    states = Counter(run.state for run in table.runs)
    number = count(len(table.runs), "run")
    if set(states) == {"finished"}:
        return number
    return f"{number}: {', '.join(f'{of_state} {state}' for state, of_state in states.most_common())}"


def footnotes(table: Table) -> list[str]:
    """Return sentences about the whole table."""
    notes = []
    metrics = [column for column in table.columns if column.metric is not None]
    if any(spread is not None for column in metrics for spread in column.spreads):
        notes.append(f"{SPREAD}: standard deviation over the runs of a row. Their mean is shown.")
    if any(interval is not None for column in metrics for interval in column.intervals):
        notes.append(f"{INTERVAL}: how far other images of the same kind could move the number, with the same weights.")
    if any(run.metrics["val"] and not run.is_finished for run in table.runs):
        notes.append("Metrics of a run that has not finished are its best so far.")
    tested = [run for run in table.runs if run.metrics["test"]]
    if len({run.split_fingerprints.get("test") for run in tested}) > 1:
        notes.append("The runs were tested on different images: compare their metrics with care.")
    return notes
