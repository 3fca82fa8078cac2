"""The options that describe a job of Slurm, for all commands that submit one."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from distcls.errors import UsageError


def add_job_options(parser: Any, required: bool) -> None:
    """Add the options to a parser or a group. required: refuse a command line without those that every job needs."""
    parser.add_argument("--nodes", type=whole_number, default=1, metavar="N", help="number of nodes (default: 1)")
    where = parser.add_mutually_exclusive_group(required=required)
    where.add_argument("--gpus-per-node", type=whole_number, metavar="G", help="GPUs per node, each with a process")
    where.add_argument("--cpu", action="store_true", help="train on CPUs")
    parser.add_argument("--tasks-per-node", type=whole_number, metavar="T", help="with --cpu: processes per node")
    parser.add_argument("--cpus-per-task", type=whole_number, metavar="N", help="default: one, plus data.workers")
    parser.add_argument("--partition", metavar="P", help="partition to queue in (default: the cluster's)")
    parser.add_argument(
        "--time",
        type=_minutes,
        required=required,
        metavar="T",
        help="how long the job runs before it is requeued: minutes, 8h, 1-12:00",
    )
    parser.add_argument(
        "--job-dir", required=required, metavar="/DIR", help="folder for scripts and output, visible to all nodes"
    )
    parser.add_argument("--container", metavar="IMAGE", help="run in this container image (pyxis and enroot)")
    parser.add_argument(
        "--signal-delay", type=whole_number, metavar="S",
        help="how many seconds before its time limit a job begins to save: allow for a step, a save and 30 s "
        "(default: 120, or half the time)",
    )  # fmt: skip
    parser.add_argument(
        "--slurm", action="append", default=[], metavar="OPTION", help="any sbatch option, such as account=vision"
    )


def whole_number(text: str) -> int:
    """Return a number of 1 or more. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _minutes(text: str) -> int:
    """Return minutes, rounded up, from sbatch's formats of a time (90, 1:30:00, 1-12:00), or 90m, 8h and 2d."""
    if match := re.fullmatch(r"([0-9]+)([mhd]?)", text):
        minutes = int(match[1]) * {"": 1, "m": 1, "h": 60, "d": 24 * 60}[match[2]]
    elif match := re.fullmatch(r"([0-9]+)-([0-9]+)(?::([0-9]+))?(?::([0-9]+))?", text):
        days, hours, rest, seconds = (int(part or 0) for part in match.groups())
        minutes = (days * 24 + hours) * 60 + rest + -(-seconds // 60)
    elif match := re.fullmatch(r"(?:([0-9]+):)?([0-9]+):([0-9]+)", text):
        hours, rest, seconds = (int(part or 0) for part in match.groups())
        minutes = hours * 60 + rest + -(-seconds // 60)
    else:
        minutes = 0
    if minutes < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time: write minutes, or 8h, 2:30:00, 1-12:00 (days-hours)")
    return minutes


def check_job_options(options: argparse.Namespace) -> None:
    """Check what argparse cannot, and fill in defaults that depend on other options. Raises UsageError."""
    if None in (options.time, options.job_dir):
        raise UsageError(
            "a job of Slurm needs --time T, how long it runs before it is requeued, and --job-dir /DIR, for its output"
        )
    if options.tasks_per_node and not options.cpu:
        raise UsageError("--tasks-per-node needs --cpu: with --gpus-per-node there is one process per GPU.")
    options.tasks_per_node = options.gpus_per_node or options.tasks_per_node or 1
    if not Path(options.job_dir).is_absolute():
        raise UsageError(f"--job-dir {options.job_dir}: give an absolute path that is visible to all nodes.")
    options.signal_delay = options.signal_delay or min(120, 30 * options.time)
    if options.signal_delay >= 60 * options.time:
        raise UsageError(
            f"--signal-delay {options.signal_delay}: the job would be asked to stop before it starts, because "
            f"--time {options.time} is {60 * options.time} seconds. Give it more time, or a smaller delay."
        )
