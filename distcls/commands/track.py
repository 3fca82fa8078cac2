"""`distcls track RUN`: sends a run, or what is missing of it, to tracking services."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from distcls.commands.arguments import Parser
from distcls.config.loading import read_config
from distcls.errors import UsageError
from distcls.runs.opening import check_run_folder
from distcls.runs.tracking.sender import SERVICES, follow, send_all
from distcls.runs.tracking.trackers import check_trackers


def main(argv: Sequence[str]) -> int:
    """Send a run's rows, and its results if it has finished. Exit code 1 if a service could not be reached."""
    parser = Parser(
        prog="distcls track",
        description="Send a run to Weights & Biases, MLflow or Trackio: all of it, or what was left when the service "
        "could not be reached. A run that names them in run.trackers does this itself while it trains.",
    )
    parser.add_argument("run", metavar="RUN", help="a run folder, such as runs/digits")
    parser.add_argument(
        "--tracker",
        action="append",
        choices=list(SERVICES),
        help="where to send it; repeat for several (default: the services in the run's run.trackers)",
    )
    parser.add_argument("--follow", action="store_true", help=argparse.SUPPRESS)  # a run starts such a process itself
    options = parser.parse_args(argv)
    run_dir = Path(options.run)
    check_run_folder(run_dir, ["config.yaml"])
    trackers = read_config(run_dir / "config.yaml").run.trackers
    names = options.tracker or [name for name in trackers if name in SERVICES]
    if not names:
        raise UsageError(
            f"{run_dir} was trained without services: say which, such as --tracker {next(iter(SERVICES))}."
        )
    check_trackers(names)
    if options.follow:
        return 0 if follow(run_dir, names[0], sys.stdin.buffer) else 1
    lines, failed = send_all(run_dir, names)
    print("\n".join(lines))
    return int(failed)
