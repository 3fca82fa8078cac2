"""`distcls doctor`: what this machine has, what will go wrong on it, and how to mend that before a run is started."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from distcls.cli import run_command
from distcls.cluster.machine import Finding, checks
from distcls.commands.arguments import Parser

MARKS = {"ok": ("ok", "green"), "warning": ("!", "yellow"), "broken": ("✗", "bold red")}


def main(argv: Sequence[str] | None = None) -> int:
    """`distcls doctor`. The exit code is 1 where something is broken."""
    return run_command(_main, sys.argv[1:] if argv is None else argv)


def _main(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="distcls doctor",
        description="Say what this machine has, what will go wrong on it, and how to mend it. It takes about "
        "15 seconds; the exit code is 1 where something is broken.",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--folder", type=Path, default=Path(), metavar="DIR", help="where runs will lie (default: .)")
    options = parser.parse_args(argv)
    findings = [finding for check in checks(options.folder) for finding in check()]
    if options.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        print_findings(findings)
    return int(any(finding.status == "broken" for finding in findings))


def print_findings(findings: Sequence[Finding]) -> None:
    """A line for each, with the advice below it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

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
    console.print(f"\n{broken} broken, {warnings} to think of" if broken + warnings else "\nNothing to mend.")


if __name__ == "__main__":
    sys.exit(main())
