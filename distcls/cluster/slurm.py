"""Sets the ranks of processes that Slurm started, and requeues their job.

In jobs of `distcls submit` and launch/slurm/train.sbatch, srun starts every task as one rank. A job that Slurm is
about to end returns to the queue under the same id if it is requeued in time. Some of the ways in which Slurm ends
a job call for that, and some forbid it: this file decides.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

from distcls.errors import DistclsError, Preempted, tell

REQUEUE = "DISTCLS_REQUEUE"
"""Environment variable of a batch script that wants its job requeued: 1 if rank 0 should requeue it, "script" if the
script does so itself. Without it nothing is requeued: Ctrl-C in a shell inside a job must not end that job."""

NODES_OF_STEP = {"SLURM_JOB_NODELIST": "SLURM_STEP_NODELIST", "SLURM_JOB_NUM_NODES": "SLURM_STEP_NUM_NODES"}
"""The variables that name the nodes of a job, and those for a step of it."""

STEP_APART = 1009
"""Between the ports of two steps of a job."""

TORCHRUN = "TORCHELASTIC_RUN_ID"
"""Environment variable that is set if a task runs torchrun or accelerate launch, which started this process."""

UNANSWERED = re.compile(
    "Socket timed out|Unable to contact slurm controller|Zero Bytes were transmitted|Resource temporarily unavailable"
    "|in standby mode"
)
"""Errors of sbatch after which nobody knows whether the job is queued."""


class NoAnswerError(DistclsError):
    """Slurm did not answer in time. That is no refusal: the same command may work in a moment."""


def join_step() -> None:
    """Set the variables from which torch reads this srun task's rank, the number of ranks, and rank 0's address.

    Does nothing outside a step of several tasks, or if torchrun started this process inside its task.
    """
    num_tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if num_tasks == 1 or TORCHRUN in os.environ:
        return
    os.environ.setdefault("SUBMITIT_EXECUTOR", "slurm")  # plain srun sets the same variables
    # Each step of a job has its own port, below those that the system uses for outgoing connections.
    place = int(os.environ["SLURM_JOB_ID"]) + STEP_APART * int(os.environ.get("SLURM_STEP_ID", "0"))
    os.environ["MASTER_PORT"] = str(20000 + place % 12000)
    from submitit.helpers import TorchDistributedEnvironment, environment_variables

    # submitit asks for the nodes of the job, but `srun -N1` may run on any of them.
    of_step = {name: os.environ[own] for name, own in NODES_OF_STEP.items() if own in os.environ}
    with environment_variables(**of_step):
        ranks = TorchDistributedEnvironment().export(overwrite=True, set_cuda_visible_devices=False)
    os.environ.setdefault("OMP_NUM_THREADS", str(cpus_per_rank() or 1))
    assert ranks.world_size == num_tasks, f"SLURM_NTASKS is {ranks.world_size}, but the step has {num_tasks} tasks"


def comes_back() -> bool:
    """True if the batch script wants its job requeued.

    Slurm sends such a job up to three signals for a single preemption, within milliseconds, and SIGKILL when its time
    is up: the second signal must not end a process before everything is saved.
    """
    return REQUEUE in os.environ


def cpus_per_rank() -> int | None:
    """Return the CPUs of this task, often fewer than the machine's; None if unknown, or if several ranks share them."""
    if TORCHRUN in os.environ or "SLURM_CPUS_PER_TASK" not in os.environ:
        return None
    return int(os.environ["SLURM_CPUS_PER_TASK"])


def leave(code: int) -> int:
    """Return the exit code of a run; raise SystemExit(0) if it was preempted in a job that is requeued.

    Such a task has done its work, and submitit must not store a result for a job that will run again.
    """
    if requeued(code):
        sys.exit(0)
    return code


def requeued(code: int) -> bool:
    """Requeue the job if it was preempted and wants that; return True if so. Call this once everything is saved."""
    if code != Preempted.exit_code or not comes_back():
        return False
    if os.environ[REQUEUE] == "1" and os.environ.get("SLURM_PROCID") == "0":
        return _requeue(_job_id())
    return True


def _requeue(job: str) -> bool:
    """Requeue a job if it is running: Slurm requeues a preempted one itself, and a cancelled one must stay cancelled.

    Returns False if Slurm did not answer. Its controller may be unavailable for a moment, so it is asked three times.
    """
    error: Exception | None = None
    for pause in (0, 2, 5):
        time.sleep(pause)
        try:
            shown = subprocess.run(["scontrol", "show", "job", "-o", job], capture_output=True, text=True, timeout=60)
            state = re.search(r"JobState=(\w+)", shown.stdout)
            if state is None:
                raise OSError(shown.stderr.strip())
            if state[1] == "RUNNING":
                subprocess.run(["scontrol", "requeue", job], check=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as failed:
            error = failed
        else:
            outcome = "is requeued" if state[1] == "RUNNING" else f"is {state[1]}, so distcls does not requeue it"
            tell(f"job {job} {outcome}.")
            return True
    tell(f"job {job} could not be requeued: {error}. Submit it again to resume.")
    return False


def _job_id() -> str:
    """Return the id of this job, or of its element in an array: a plain id may stand for the whole array."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
