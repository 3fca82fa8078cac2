"""`distcls doctor`: checks a machine before a run starts on it: what it has, what is wrong, and how to fix it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from distcls.commands.arguments import Parser


def main(argv: Sequence[str]) -> int:
    """Print the findings. The exit code is 1 if something is broken."""
    parser = Parser(
        prog="distcls doctor",
        description="Check this machine: what it has, what is wrong, and how to fix it. This takes about "
        "15 seconds; the exit code is 1 if something is broken.",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument(
        "--folder", type=Path, default=Path(), metavar="DIR", help="where runs will be kept (default: .)"
    )
    options = parser.parse_args(argv)
    from distcls.cluster.machine import checks
    from distcls.report.findings import print_findings

    findings = [finding for check in checks(options.folder) for finding in check()]
    if options.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        print_findings(findings)
    return int(any(finding.status == "broken" for finding in findings))
