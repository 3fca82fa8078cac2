"""`distcls submit`: submits a run, or an array of runs, to Slurm."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from submitit.core.utils import environment_variables

from distcls.commands.arguments import SETTINGS, Parser, add_config_file, parse_train_arguments
from distcls.commands.job_options import add_job_options, check_job_options
from distcls.commands.slurm_job import PlannedRun, build_executor, script_of, submit
from distcls.errors import MissingInputError, UsageError
from distcls.runs.resuming import AlreadyFinished, choose_folder, default_name


def main(argv: Sequence[str]) -> int:
    """Submit a run, or an array of runs, and print where to look."""
    options = _parser().parse_intermixed_args(argv)
    check_job_options(options)
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
            words.append(f"--{name}={getattr(options, name)}")
    with environment_variables(WORLD_SIZE=options.nodes * options.tasks_per_node):
        config, read = parse_train_arguments(words)
    run = config.run
    named = {"run.dir": run.dir and run.dir.rstrip("/") + suffix, "run.name": run.name and run.name + suffix}
    name = default_name(config, read.config_path) + suffix
    path = choose_folder(config.replaced(named), name).absolute()
    return PlannedRun(path, config.replaced({**named, "run.dir": str(path)}))


def _parser() -> Parser:
    parser = Parser(
        prog="distcls submit",
        description="Train on a Slurm cluster: one process per GPU, on as many nodes as you like. A job that is "
        "preempted, requeued or out of time returns to the queue and resumes; scancel ends it.",
        epilog="Nothing is assumed about the cluster. Settings are those of distcls train.",
    )
    add_config_file(parser)
    parser.add_argument("--data", metavar="DIR", help="folder of images, as for distcls train")
    parser.add_argument("--name", help="name of the run; its folder is runs/NAME (default: the config's)")
    add_job_options(parser, required=True)
    parser.add_argument("--array", metavar="KEY=V1,V2,…", help="submit a run for each value, such as train.seed=0,1,2")
    parser.add_argument("--dry-run", action="store_true", help="print the batch script without submitting it")
    parser.add_argument("settings", nargs="*", metavar=SETTINGS, help="settings that override those of the file")
    return parser
