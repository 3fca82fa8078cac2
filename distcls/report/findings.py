"""Shows the results of `distcls doctor` on one screen."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from distcls.cluster.machine import Finding
from distcls.config.wording import count

MARKS = {"ok": ("ok", "green"), "warning": ("!", "yellow"), "broken": ("✗", "bold red")}


def print_findings(findings: Sequence[Finding]) -> None:
    """Print a line for each finding, with any advice below it."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for column in (None, "cyan", None):
        table.add_column(style=column, overflow="fold")
    for finding in findings:
        mark, style = MARKS[finding.status]
        table.add_row(Text(mark, style), finding.name, Text(finding.found))
        if finding.advice:
            table.add_row("", "", Text(finding.advice, "yellow"))
    console = Console()
    console.print(table)
    broken, warnings = (sum(finding.status == status for finding in findings) for status in ("broken", "warning"))
    counts = [f"{broken} broken"] * (broken > 0) + [count(warnings, "warning")] * (warnings > 0)
    console.print(f"\n{', '.join(counts) or 'No problems found.'}")
