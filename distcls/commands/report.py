"""`distcls report RUN`: makes a run's report and plots again, from its folder alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distcls.commands.arguments import Parser
from distcls.runs.opening import check_run_folder


def main(argv: Sequence[str]) -> int:
    """Write report.html and plots/ again. This needs neither images nor model, and imports no code of the run."""
    parser = Parser(
        prog="distcls report",
        description="Make a run's report.html and plots/ again from its folder alone: its images are not needed. For a "
        "run that has not finished, they show what there is so far.",
    )
    parser.add_argument("run", metavar="RUN", help="a run folder, such as runs/digits")
    run_dir = Path(parser.parse_args(argv).run)
    check_run_folder(run_dir, ["classes.json"])
    from distcls.report.run_report import write_report

    for name in write_report(run_dir):
        print(run_dir / name)
    return 0
