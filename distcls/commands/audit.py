"""`distcls audit RUN`: lists images whose labels are probably wrong, and images that occur more than once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distcls.commands.arguments import TRUST, Parser, check_can_write, settings_of_moved
from distcls.errors import UsageError
from distcls.runs.listing import is_run
from distcls.runs.opening import check_run_folder, opened_run
from distcls.sweeps.crossval import runs_of
from distcls.terminal.progress import Progress


def main(argv: Sequence[str]) -> int:
    """Audit the images of a run or of the folds of a cross-validation; write a page, and CSV files for data.exclude."""
    parser = Parser(
        prog="distcls audit",
        description="List images whose labels are probably wrong, judged by a model that was not trained on them, and "
        "images that occur more than once, above all in different splits or classes. Writes audit.html, and audit.csv "
        "for data.exclude.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="the name of a crossval, such as runs/flowers, whose folds predicted every image; or run folders, which "
        "predicted only their val and test images",
    )
    parser.add_argument("--data", metavar="DIR", help="where the images are now")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder to write to; default: RUN-audit beside the first run"
    )
    parser.add_argument("--trust", action="store_true", help=TRUST)
    options = parser.parse_args(argv)
    named = [Path(name) if Path(name).name else Path(name).resolve() for name in options.runs]  # "." has no name
    run_dirs = [run_dir for path in named for run_dir in runs_of(path)]
    for run_dir in run_dirs:
        check_run_folder(run_dir)
    output = options.output or named[0].with_name(f"{named[0].name}-audit")
    if is_run(output):
        raise UsageError(
            f"--output {output} is a run folder, whose pictures the audit would replace: give another folder, such as "
            f"{output}-audit"
        )
    check_can_write(output, is_folder=True)
    moved = settings_of_moved(options.data, run_dirs[0])
    with opened_run(run_dirs[0], ["data"], moved, options.trust) as config:
        from distcls.sweeps.audit.audit import audit_runs

        audit_runs(run_dirs, config.data, output, Progress())
    return 0
