"""`distcls submit`: submits a run, or an array of runs, to Slurm."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from submitit.core.utils import environment_variables

from distcls.commands.arguments import SETTINGS, Parser, parse_train_arguments
from distcls.commands.slurm_job import PlannedRun, build_executor, script_of, submit
from distcls.errors import MissingInputError, UsageError
from distcls.runs.resuming import AlreadyFinished, choose_folder, default_name


def main(argv: Sequence[str]) -> int:
    """Submit a run, or an array of runs, and print where to look."""
    options = _parser().parse_intermixed_args(argv)
    _check(options)
    runs = _plan_runs(options)
    if not runs:
        return 0
    executor = build_executor(options, runs)
    if options.dry_run:
        print(script_of(executor, runs), end="")
        return 0
    if shutil.which("sbatch") is None:
        raise MissingInputError(
            "sbatch is not on the PATH: submit from a machine with Slurm's commands, or add --dry-run."
        )
    for run, job in zip(runs, submit(executor, runs, Path(options.job_dir)), strict=True):
        print(f"{run.dir}  job {job.job_id}, output in {job.paths.stdout}")
    print("To see your jobs: squeue --me. To end one: scancel JOB; to resume its run, submit it again.")
    return 0


def _plan_runs(options: argparse.Namespace) -> list[PlannedRun]:
    """Return the run, or those of the array, without finished ones. Raises UsageError for a run that cannot start."""
    runs = []
    for setting, suffix in _elements(options.array):
        try:
            runs.append(_plan_run(options, setting, suffix))
        except AlreadyFinished as finished:
            print(f"distcls: {finished}", file=sys.stderr)
    return runs


def _elements(array: str | None) -> list[tuple[list[str], str]]:
    """Return the settings and the suffix of the name, such as -seed1, of each element of `train.seed=0,1`."""
    if array is None:
        return [([], "")]
    key, equals, values = array.partition("=")
    names = values.split(",")
    if not equals or not all(names) or len(set(names)) < len(names):
        raise UsageError(f"--array {array}: write key=v1,v2,… with different values, such as train.seed=0,1,2")
    return [([f"{key}={value}"], f"-{key.split('.')[-1]}{value.replace('/', '_')}") for value in names]


def _plan_run(options: argparse.Namespace, array_setting: list[str], suffix: str) -> PlannedRun:
    words = [f"run.device={'cpu' if options.cpu else 'cuda'}", *options.settings, *array_setting]
    for name in ("config", "data", "name"):
        if getattr(options, name) is not None:
            words += [f"--{name}", getattr(options, name)]
    with environment_variables(WORLD_SIZE=options.nodes * options.tasks_per_node):
        config, read = parse_train_arguments(words)
    run = config.run
    named = replace(run, dir=run.dir and run.dir + suffix, name=run.name and run.name + suffix)
    name = default_name(config, read.config_path) + suffix
    path = choose_folder(replace(config, run=named), name).absolute()
    return PlannedRun(path, replace(config, run=replace(named, dir=str(path))))


def _parser() -> Parser:
    parser = Parser(
        prog="distcls submit",
        description="Train on a Slurm cluster: one process per GPU, on as many nodes as you like. A job that is "
        "preempted, requeued or out of time returns to the queue and resumes; scancel ends it.",
        epilog="Nothing is assumed about the cluster. Settings are those of distcls train.",
    )
    parser.add_argument("-c", "--config", metavar="FILE", help="YAML file with settings")
    parser.add_argument("--data", metavar="DIR", help="folder of images, as for distcls train")
    parser.add_argument("--name", help="name of the run; its folder is runs/NAME (default: the config's)")
    parser.add_argument("--nodes", type=_count, default=1, metavar="N", help="number of nodes (default: 1)")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--gpus-per-node", type=_count, metavar="G", help="GPUs per node, each with a process")
    where.add_argument("--cpu", action="store_true", help="train on CPUs")
    parser.add_argument("--tasks-per-node", type=_count, metavar="T", help="with --cpu: processes per node")
    parser.add_argument("--cpus-per-task", type=_count, metavar="N", help="default: one, plus data.workers")
    parser.add_argument("--partition", metavar="P", help="partition to queue in (default: the cluster's)")
    parser.add_argument(
        "--time", type=_minutes, required=True, metavar="T", help="time until the job is requeued: minutes, 8h, 1-12:00"
    )
    parser.add_argument(
        "--job-dir", required=True, metavar="/DIR", help="folder for scripts and output, visible to all nodes"
    )
    parser.add_argument("--array", metavar="KEY=V1,V2,…", help="submit a run for each value, such as train.seed=0,1,2")
    parser.add_argument("--container", metavar="IMAGE", help="run in this container image (pyxis and enroot)")
    parser.add_argument(
        "--signal-delay", type=_count, metavar="S",
        help="how many seconds before its time limit a job begins to save: allow for a step, a save and 30 s "
        "(default: 120, or half the time)",
    )  # fmt: skip
    parser.add_argument(
        "--slurm", action="append", default=[], metavar="OPTION", help="any sbatch option, such as account=vision"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the batch script without submitting it")
    parser.add_argument("settings", nargs="*", metavar=SETTINGS, help="settings that override those of the file")
    return parser


def _count(text: str) -> int:
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


def _check(options: argparse.Namespace) -> None:
    """Check what argparse cannot, and fill in defaults that depend on other options. Raises UsageError."""
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
