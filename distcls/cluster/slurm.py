"""What a process knows and does because Slurm started it: which rank it is, and how its job comes back.

`distcls submit` and launch/slurm/train.sbatch write jobs whose every task is one rank, started by srun. A job
that Slurm is about to end comes back under the same id if it is requeued before; which of Slurm's ways to end
a job need that, and which must not have it, is decided here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

from distcls.errors import Preempted

REQUEUE = "DISTCLS_REQUEUE"
"""Environment variable of a batch script whose job is to come back: 1 where rank 0 requeues it, "script" where
the script does. Without it nothing is requeued: Ctrl-C in a shell that runs inside a job must not end that job."""

TORCHRUN = "TORCHELASTIC_RUN_ID"
"""Is set where torchrun or accelerate launch, started by the task, has started this process."""


def join_step() -> None:
    """Tell torch which rank this task of srun is, who the others are, and where rank 0 listens.

    Does nothing outside a step of several tasks, nor where torchrun started this process inside its task.
    """
    num_tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if num_tasks == 1 or TORCHRUN in os.environ:
        return
    os.environ.setdefault("SUBMITIT_EXECUTOR", "slurm")  # plain srun sets the same variables
    # The port is the job's own, and below those that the system gives to outgoing connections.
    os.environ["MASTER_PORT"] = str(20000 + int(os.environ["SLURM_JOB_ID"]) % 12000)
    from submitit.helpers import TorchDistributedEnvironment

    ranks = TorchDistributedEnvironment().export(overwrite=True, set_cuda_visible_devices=False)
    os.environ.setdefault("OMP_NUM_THREADS", str(cpus_per_rank() or 1))
    assert ranks.world_size == num_tasks, f"SLURM_NTASKS is {ranks.world_size}, but the step has {num_tasks} tasks"


def comes_back() -> bool:
    """Whether a batch script asks for its job to be requeued.

    Slurm sends such a job up to three signals for one and the same preemption, within milliseconds, and SIGKILL when
    it is in earnest: the second one must not end a process before all is saved.
    """
    return REQUEUE in os.environ


def cpus_per_rank() -> int | None:
    """CPUs of this task, which may be few of the machine's; None where they are not for one rank, or not known."""
    if TORCHRUN in os.environ or "SLURM_CPUS_PER_TASK" not in os.environ:
        return None
    return int(os.environ["SLURM_CPUS_PER_TASK"])


def leave(code: int) -> int:
    """The exit code of a run; raises SystemExit(0) where it was preempted in a job that comes back.

    The task did what was asked of it then, and submitit keeps no result of a job that comes back.
    """
    if requeued(code):
        sys.exit(0)
    return code


def requeued(code: int) -> bool:
    """Requeue the job after a preemption, if it is to come back; whether that is so. All must have been saved."""
    if code != Preempted.exit_code or not comes_back():
        return False
    if os.environ[REQUEUE] == "1" and os.environ.get("SLURM_PROCID") == "0":
        return _requeue(_job_id())
    return True


def _requeue(job: str) -> bool:
    """Only a running job: one that was preempted comes back by itself, and one that was cancelled must not.

    Whether Slurm could be asked: its controller may be away for a moment, so it is asked a few times.
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
            told = "comes back" if state[1] == "RUNNING" else f"is {state[1]}, and this run changes nothing about it"
            print(f"distcls: job {job} {told}.", file=sys.stderr)
            return True
    print(f"distcls: job {job} could not be requeued: {error}. Submit it again: it goes on.", file=sys.stderr)
    return False


def _job_id() -> str:
    """This job, or this element of an array, whose first element's own number would stand for all of them."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
