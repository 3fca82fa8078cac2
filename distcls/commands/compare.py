"""`distcls compare [RUN…]`: shows runs side by side, in the terminal, as CSV and as a web page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distcls.commands.arguments import Parser, check_can_write
from distcls.errors import MissingInputError

RUNS = [Path("runs")]
"""What is compared if nothing is named."""


def main(argv: Sequence[str]) -> int:
    """Print the table. No code that a run names is imported, and torch is not needed."""
    options = _parser().parse_intermixed_args(argv)
    for file in (options.csv, options.html):
        check_can_write(file)
    if options.runs == RUNS and not RUNS[0].exists():
        raise MissingInputError("there is no folder named runs here: give a folder of runs, distcls compare DIR.")
    from distcls.report.comparison.table import MOST_TESTED, build_table
    from distcls.report.comparison.terminal import print_table

    table = build_table(options.runs, options.sort, options.reverse, options.filter, not options.no_group)
    sentences = []
    if 1 < len(table.rows) <= MOST_TESTED:
        from distcls.report.comparison.remarks import remarks

        sentences = remarks(table)
    print_table(table, sentences, options.columns.split(",") if options.columns else None)
    if options.csv is not None:
        from distcls.report.comparison.csv_file import write_csv

        write_csv(table, options.csv)
        print(options.csv)
    if options.html is not None:
        from distcls.report.comparison.page import write_comparison

        write_comparison(table, sentences, options.html)
        print(options.html)
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="distcls compare",
        usage="distcls compare [RUN ...] [--sort COLUMN] [--reverse] [--filter KEY=VALUE] [--columns A,B] [--no-group] "
        "[--csv FILE] [--html FILE]",
        description="Show runs side by side: metrics, time and size, the settings in which they differ, and how much "
        "of the difference may be chance. Finished runs that differ only in train.seed or data.fold are one row, "
        "mean ± standard deviation.",
    )
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="*",
        type=Path,
        default=RUNS,
        help="run folders, or folders of runs (default: runs)",
    )
    parser.add_argument(
        "--sort",
        metavar="COLUMN",
        help="such as accuracy, test.loss, time, optim.lr or run; metrics have the best value first. Folders of runs "
        "are sorted by what chose the weights, on val, unless you say otherwise",
    )
    parser.add_argument("--reverse", action="store_true", help="reverse the order")
    parser.add_argument(
        "--filter",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="only these runs, such as state=finished, run='lr*' or model.name=resnet9; may be repeated",
    )
    parser.add_argument("--columns", metavar="A,B", help="columns to show, such as accuracy,optim.lr,time")
    parser.add_argument("--no-group", action="store_true", help="give each run a row of its own")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write one row per run, with all columns")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a web page, with curves")
    return parser
