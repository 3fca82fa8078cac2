"""The job that Slurm runs: a batch script around `distcls train`, which may be stopped and started at any time.

submitit writes the script and calls sbatch. The job carries the path of a config, which is written here and never
changes again. What its tasks do about Slurm is in slurm.py; the rest is `distcls train`.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import uuid
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import submitit
from submitit.core.utils import FailedJobError

from distcls.cluster import slurm
from distcls.commands import train
from distcls.config.settings import Config
from distcls.config.yaml_text import given_as_yaml, to_yaml
from distcls.errors import DiskError, UsageError
from distcls.files.atomic import write_text

# submitit's imports run before the handlers of signals.py are set: until then, ignore the signals that would kill.
SHIELDED = 'sh -c \'trap "" TERM USR1 USR2; exec "$0" "$@"\''

MAX_RESTARTS = 10**6
"""submitit's default would be three."""


@dataclass(frozen=True)
class PlannedRun:
    """A run to submit, with its own folder, which its config names."""

    dir: Path
    config: Config


class TrainJob:
    """The callable that a task of the job runs: it carries the arguments of `distcls train`, and no code."""

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def __call__(self) -> None:
        """Train as one of the ranks; `train.main` begins by replacing submitit's signal handlers."""
        sys.argv = ["distcls train", *self.words]  # for env.json
        code = train.main(self.words)
        if code:
            sys.exit(code)


class _Executor(submitit.SlurmExecutor):
    @classmethod
    def affinity(cls) -> int:
        """Allow writing a script on a machine without Slurm."""
        return 2


def build_executor(options: argparse.Namespace, runs: list[PlannedRun]) -> _Executor:
    """Return an executor that submits these runs as one job, an array for several. options: of `distcls submit`."""
    python = "python3" if options.container else shlex.quote(sys.executable)
    executor = _Executor(options.job_dir, max_num_timeout=MAX_RESTARTS, python=f"{SHIELDED} {python}")
    cpus_per_task = options.cpus_per_task or runs[0].config.data.workers + 1
    executor.update_parameters(
        job_name=runs[0].dir.name,
        partition=options.partition,
        time=options.time,
        nodes=options.nodes,
        ntasks_per_node=options.tasks_per_node,
        gpus_per_node=options.gpus_per_node,
        cpus_per_task=cpus_per_task,
        signal_delay_s=options.signal_delay,
        stderr_to_stdout=True,
        wckey=None,
        additional_parameters={"requeue": True, **_sbatch_options(options.slurm)},
        # The shell must survive the signals that stop the tasks, or it would take them down with it.
        setup=["trap : TERM USR1 USR2", f"export {slurm.REQUEUE}={'script' if options.container else 1}"],
        # Without the first, one dead rank leaves the others waiting until the job's time is up.
        srun_args=["--kill-on-bad-exit=1", f"--cpus-per-task={cpus_per_task}", *_container(options, runs)],
        teardown=_requeue_from_outside(runs) if options.container else None,
    )
    return executor


def script_of(executor: _Executor, runs: list[PlannedRun]) -> str:
    """Return the batch script that would be submitted; submitit has no public way to get it."""
    if len(runs) > 1:
        executor.parameters["map_count"] = len(runs)
    return executor._make_submission_file_text(executor._submitit_command_str, "dry-run")


def submit(executor: _Executor, runs: list[PlannedRun], job_dir: Path) -> list[submitit.Job]:
    """Write the configs, call sbatch, and reserve the run folders until the runs start."""
    try:
        job_dir.mkdir(parents=True, exist_ok=True)
        for run in runs:  # before the job: a container mounts it
            run.dir.mkdir(parents=True, exist_ok=True)
        jobs = submit_words(executor, [["--config", _write_config(run, job_dir)] for run in runs], job_dir)
        for run in runs:
            if not (run.dir / "config.yaml").exists():
                write_text(run.dir / "config.yaml", to_yaml(run.config))
        return jobs
    except OSError as error:
        raise DiskError(f"{error.filename}: cannot write the job's files ({error.strerror})") from error


def submit_words(executor: _Executor, words: list[list[str]], job_dir: Path) -> list[submitit.Job]:
    """Call sbatch for one run, or for an array of several, each with its arguments of `distcls train`.

    Raises UsageError if Slurm refuses, NoAnswerError if it does not answer, and DiskError.
    """
    try:
        job_dir.mkdir(parents=True, exist_ok=True)
        with submitit.helpers.clean_env() if "SLURM_JOB_ID" in os.environ else nullcontext():
            return executor.submit_array([TrainJob(one) for one in words])
    except FailedJobError as error:
        if slurm.UNANSWERED.search(str(error)):
            raise slurm.NoAnswerError(
                f"Slurm did not answer: {error}. Submit the job again. If squeue --me already shows it, cancel that "
                "one first (scancel JOB): it cannot train."
            ) from error
        raise UsageError(f"Slurm refused the job: {error}") from error
    except OSError as error:
        raise DiskError(f"{error.filename}: cannot write the job's files ({error.strerror})") from error


def _write_config(run: PlannedRun, job_dir: Path) -> str:
    """Return the path of a config that no later submission changes, however long this one waits in the queue.

    It holds only what was given: a preset chooses the rest, when the run starts.
    """
    path = job_dir / f"{run.dir.name}-{uuid.uuid4().hex[:8]}.yaml"
    config = run.config
    write_text(path, given_as_yaml(config.noting(config.given | {"preset", "run.dir", "run.name"})))
    return str(path)


def _sbatch_options(words: Sequence[str]) -> dict[str, str | bool]:
    """Return submitit's parameters for `key=value` options and flags such as `exclusive`, with underscores in names."""
    parts = [word.partition("=") for word in words]
    return {key.lstrip("-").replace("-", "_"): value if equals else True for key, equals, value in parts}


def _container(options: argparse.Namespace, runs: list[PlannedRun]) -> list[str]:
    """Return srun's options for pyxis: inside the image, a run's files have the same paths as outside."""
    if not options.container:
        return []
    folders = [Path.cwd(), Path(options.job_dir), *(run.dir for run in runs)]
    folders += [folder for run in runs for folder in _read_by(run.config)]
    mounts = ",".join(dict.fromkeys(f"{folder}:{folder}" for folder in folders))
    return [
        f"--container-image={options.container}",
        f"--container-mounts={mounts}",
        f"--container-workdir={Path.cwd()}",
    ]


def _read_by(config: Config) -> list[Path]:
    """Return the folders that a run reads: those of files, too, because a CSV file names images beside it."""
    data, model = config.data, config.model
    given = [data.root, data.exclude, data.cache_dir, model.init_from, model.weights]
    paths = [Path(path).absolute() for path in given if path and (path == data.root or os.path.exists(path))]
    return [path.parent if path.is_file() else path for path in paths]


def _requeue_from_outside(runs: list[PlannedRun]) -> list[str]:
    """Return lines of the batch script that requeue as slurm.py does: container images have no scontrol."""
    return [
        f"code=$? runs=({shlex.join(str(run.dir) for run in runs)})",
        "job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID} job=${job:-$SLURM_JOB_ID}",
        'if [ $code = 0 ] && grep -q \'"state": "preempted"\' "${runs[${SLURM_ARRAY_TASK_ID:-0}]}/status.json" &&',
        '    scontrol show job -o "$job" | grep -q JobState=RUNNING; then scontrol requeue "$job"; fi',
        "exit $code",
    ]
