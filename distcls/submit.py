"""`distcls submit`: hand a training to Slurm, which may stop it and start it again as often as it likes.

submitit writes the batch script and calls sbatch. The job carries the path of a config, which is written here and
never changes again; what its tasks know of Slurm is in slurm.py, and the rest is `distcls train`.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import sys
import uuid
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import submitit
from submitit.core.utils import FailedJobError, environment_variables

from distcls import slurm, train
from distcls.arguments import SETTINGS, Parser, parse_train_arguments
from distcls.cli import run_command
from distcls.config import Config
from distcls.config_yaml import to_yaml
from distcls.errors import DiskError, MissingInputError, UsageError
from distcls.run_folder import AlreadyFinished, choose_folder, default_name, write_text

# submitit's imports come before the handlers of signals.py: until then, the signals that would kill are ignored.
SHIELDED = 'sh -c \'trap "" TERM USR1 USR2; exec "$0" "$@"\''

MAX_RESTARTS = 10**6
"""submitit would give up after three, if it were ever asked."""


def main(argv: Sequence[str] | None = None) -> int:
    """Submit a training, or an array of them, and say where to look."""
    return run_command(_main, sys.argv[1:] if argv is None else argv)


def _main(argv: Sequence[str]) -> int:
    options = _parser().parse_intermixed_args(argv)
    _check(options)
    runs = _plan_runs(options)
    if not runs:
        return 0
    executor = _build_executor(options, runs)
    if options.dry_run:
        # submitit has no public way to the script that it would submit.
        if len(runs) > 1:
            executor.parameters["map_count"] = len(runs)
        print(executor._make_submission_file_text(executor._submitit_command_str, "dry-run"), end="")
        return 0
    if shutil.which("sbatch") is None:
        raise MissingInputError("sbatch is not on the PATH: submit where Slurm's commands are, or add --dry-run.")
    for run, job in zip(runs, _submit(executor, runs, Path(options.job_dir)), strict=True):
        print(f"{run.dir}  job {job.job_id}, whose output is in {job.paths.stdout}")
    print("To look: squeue --me. To end a job: scancel JOB; submitting the same run again goes on with it.")
    return 0


class TrainJob:
    """What a task of the job calls: the words of `distcls train`, and no code."""

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def __call__(self) -> None:
        """Train as one of the ranks; the first thing that `train.main` does is to replace submitit's handlers."""
        sys.argv = ["distcls train", *self.words]  # env.json tells
        code = train.main(self.words)
        if code:
            sys.exit(code)


# Which runs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlannedRun:
    """A run of its own, in a folder of its own, which is written into its config."""

    dir: Path
    config: Config


def _plan_runs(options: argparse.Namespace) -> list[PlannedRun]:
    """The run, or those of the array, less those that are finished. Raises UsageError for what cannot be run."""
    runs = []
    for setting, suffix in _elements(options.array):
        try:
            runs.append(_plan_run(options, setting, suffix))
        except AlreadyFinished as finished:
            print(f"distcls: {finished}", file=sys.stderr)
    return runs


def _elements(array: str | None) -> list[tuple[list[str], str]]:
    """For each element of `train.seed=0,1`: its settings, and what makes its name another one, such as -seed1."""
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
    with environment_variables(WORLD_SIZE=options.nodes * _tasks_per_node(options)):
        config, read = parse_train_arguments(words)
    run = config.run
    run.dir, run.name = run.dir and run.dir + suffix, run.name and run.name + suffix
    path = choose_folder(config, default_name(config, read.config_path) + suffix).absolute()
    run.dir = str(path)
    return PlannedRun(path, config)


# The job -------------------------------------------------------------------------------------------


class _Executor(submitit.SlurmExecutor):
    @classmethod
    def affinity(cls) -> int:
        """A script can be written without Slurm too."""
        return 2


def _build_executor(options: argparse.Namespace, runs: list[PlannedRun]) -> _Executor:
    python = "python3" if options.container else shlex.quote(sys.executable)
    executor = _Executor(options.job_dir, max_num_timeout=MAX_RESTARTS, python=f"{SHIELDED} {python}")
    cpus_per_task = options.cpus_per_task or runs[0].config.data.workers + 1
    executor.update_parameters(
        job_name=runs[0].dir.name,
        partition=options.partition,
        time=options.time,
        nodes=options.nodes,
        ntasks_per_node=_tasks_per_node(options),
        gpus_per_node=options.gpus_per_node,
        cpus_per_task=cpus_per_task,
        signal_delay_s=options.signal_delay,
        stderr_to_stdout=True,
        wckey=None,
        additional_parameters={"requeue": True, **_sbatch_options(options.slurm)},
        # The shell has to outlive the signals that end the tasks, or it would take them with it.
        setup=["trap : TERM USR1 USR2", f"export {slurm.REQUEUE}={'script' if options.container else 1}"],
        # Without the first, one dead rank leaves the others waiting to the end of the job's time.
        srun_args=["--kill-on-bad-exit=1", f"--cpus-per-task={cpus_per_task}", *_container(options, runs)],
        teardown=_requeue_from_outside(runs) if options.container else None,
    )
    return executor


def _submit(executor: _Executor, runs: list[PlannedRun], job_dir: Path) -> list[submitit.Job]:
    """Write the configs, call sbatch, and keep the folders for these runs until they start."""
    try:
        job_dir.mkdir(parents=True, exist_ok=True)
        with submitit.helpers.clean_env() if "SLURM_JOB_ID" in os.environ else nullcontext():
            jobs = executor.submit_array([TrainJob(["--config", _write_config(run, job_dir)]) for run in runs])
        for run in runs:
            run.dir.mkdir(parents=True, exist_ok=True)
            if not (run.dir / "config.yaml").exists():
                write_text(run.dir / "config.yaml", to_yaml(run.config))
        return jobs
    except FailedJobError as error:
        raise UsageError(f"Slurm did not take the job: {error}") from error
    except OSError as error:
        raise DiskError(f"{error.filename}: cannot write what the job needs ({error.strerror})") from error


def _write_config(run: PlannedRun, job_dir: Path) -> str:
    """The path of a config that no later submission changes, however long this one waits."""
    path = job_dir / f"{run.dir.name}-{uuid.uuid4().hex[:8]}.yaml"
    write_text(path, to_yaml(run.config))
    return str(path)


def _tasks_per_node(options: argparse.Namespace) -> int:
    return options.gpus_per_node or options.tasks_per_node or 1


def _sbatch_options(words: Sequence[str]) -> dict[str, str | bool]:
    """`key=value`, or a flag such as `exclusive`; submitit writes its own names with underscores."""
    parts = [word.partition("=") for word in words]
    return {key.lstrip("-").replace("-", "_"): value if equals else True for key, equals, value in parts}


def _container(options: argparse.Namespace, runs: list[PlannedRun]) -> list[str]:
    """srun's options for pyxis: in the image, all that a run reads or writes lies where it lies outside."""
    if not options.container:
        return []
    folders = [Path.cwd(), Path(options.job_dir), *(run.dir for run in runs)]
    folders += [Path(run.config.data.root).absolute() for run in runs if run.config.data.root]
    mounts = ",".join(dict.fromkeys(f"{folder}:{folder}" for folder in folders))
    return [
        f"--container-image={options.container}",
        f"--container-mounts={mounts}",
        f"--container-workdir={Path.cwd()}",
    ]


def _requeue_from_outside(runs: list[PlannedRun]) -> list[str]:
    """Lines of the batch script that do what slurm.py does: images have no scontrol."""
    return [
        f"code=$? runs=({shlex.join(str(run.dir) for run in runs)})",
        "job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID} job=${job:-$SLURM_JOB_ID}",
        'if [ $code = 0 ] && grep -q \'"state": "preempted"\' "${runs[${SLURM_ARRAY_TASK_ID:-0}]}/status.json" &&',
        '    scontrol show job -o "$job" | grep -q JobState=RUNNING; then scontrol requeue "$job"; fi',
        "exit $code",
    ]


# The words -----------------------------------------------------------------------------------------


def _parser() -> Parser:
    parser = Parser(
        prog="distcls submit",
        description="Train on a Slurm cluster: one process per GPU, on as many nodes as you like. Preempted, "
        "requeued or out of time, the job comes back and goes on; scancel ends it.",
        epilog="Nothing is assumed about the cluster. Settings are those of distcls train.",
    )
    parser.add_argument("-c", "--config", metavar="FILE", help="YAML file with settings")
    parser.add_argument("--data", metavar="DIR", help="folder of images, as for distcls train")
    parser.add_argument("--name", help="name of the run, whose folder is runs/NAME; the default is the config's")
    parser.add_argument("--nodes", type=_count, default=1, metavar="N", help="how many nodes (default: 1)")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--gpus-per-node", type=_count, metavar="G", help="GPUs of each node, with a process for each")
    where.add_argument("--cpu", action="store_true", help="train on CPUs")
    parser.add_argument("--tasks-per-node", type=_count, metavar="T", help="with --cpu: processes per node")
    parser.add_argument("--cpus-per-task", type=_count, metavar="N", help="default: one, and one per data.workers")
    parser.add_argument("--partition", metavar="P", help="where to queue (default: the cluster's own)")
    parser.add_argument(
        "--time", type=_minutes, required=True, metavar="T", help="until it is requeued: minutes, 8h, 1-12:00"
    )
    parser.add_argument(
        "--job-dir", required=True, metavar="/DIR", help="for scripts and output; all nodes must see it"
    )
    parser.add_argument("--array", metavar="KEY=V1,V2,…", help="one run for each value, such as train.seed=0,1,2")
    parser.add_argument("--container", metavar="IMAGE", help="run in this image (pyxis and enroot)")
    parser.add_argument(
        "--signal-delay", type=_count, metavar="S",
        help="seconds before the end of its time at which a job begins to save: a step, a save and 30 more "
        "(default: 120, or half of the time)",
    )  # fmt: skip
    parser.add_argument(
        "--slurm", action="append", default=[], metavar="OPTION", help="any option of sbatch, such as account=vision"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the batch script, and submit nothing")
    parser.add_argument("settings", nargs="*", metavar=SETTINGS, help="settings, over those of the file")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _minutes(text: str) -> int:
    """sbatch's ways to write a time (90, 1:30:00, 1-12:00), and 90m, 8h and 2d, as minutes, rounded up."""
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
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write minutes, or 8h, 2:30:00, 1-12:00 (days-hours)")
    return minutes


def _check(options: argparse.Namespace) -> None:
    """What argparse cannot know. Raises UsageError."""
    if options.tasks_per_node and not options.cpu:
        raise UsageError("--tasks-per-node goes with --cpu: with --gpus-per-node there is one process per GPU.")
    if not Path(options.job_dir).is_absolute():
        raise UsageError(f"--job-dir {options.job_dir}: give an absolute path, in a folder that all nodes see.")
    options.signal_delay = options.signal_delay or min(120, 30 * options.time)
    if options.signal_delay >= 60 * options.time:
        raise UsageError(
            f"--signal-delay {options.signal_delay}: the job would be asked to stop before it starts, because "
            f"--time {options.time} is {60 * options.time} seconds. Give it more time, or a smaller delay."
        )
