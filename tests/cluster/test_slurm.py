"""What a process makes of Slurm's variables and signals; tests/slurm has the real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from distcls.cluster import slurm

STEP = {
    **{"SLURM_JOB_ID": "12345", "SLURM_JOB_NODELIST": "gpu[07-08]", "SLURM_JOB_NUM_NODES": "2", "SLURM_NODEID": "1"},
    **{"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"},
    **{"SLURM_CPUS_PER_TASK": "6", "RANK": "0", "WORLD_SIZE": "1"},  # the last two are left from elsewhere
}


def joined(monkeypatch, **variables: str | None) -> dict[str, str]:
    """The environment after `join_step`; None takes a variable away."""
    environment = {name: value for name, value in {**STEP, **variables}.items() if value is not None}
    monkeypatch.setattr(os, "environ", environment)
    slurm.join_step()
    return environment


def test_a_task_is_a_rank(monkeypatch):
    variables = joined(monkeypatch)
    assert {name: variables[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")} == {
        **{"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    }
    assert (variables["MASTER_ADDR"], variables["MASTER_PORT"]) == ("gpu07", "20345")
    assert slurm.cpus_per_rank() == 6


def test_a_step_on_some_of_the_nodes_of_a_job_meets_there(monkeypatch):
    step = {"SLURM_STEP_NODELIST": "gpu08", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_ID": "3"}
    variables = joined(monkeypatch, **step, SLURM_JOB_NODELIST="gpu[05-08]", SLURM_JOB_NUM_NODES="4")
    assert (variables["MASTER_ADDR"], variables["LOCAL_WORLD_SIZE"]) == ("gpu08", "4")
    assert variables["MASTER_PORT"] == str(20000 + (12345 + 3 * 1009) % 12000), "steps do not meet each other"
    assert (variables["SLURM_JOB_NODELIST"], variables["SLURM_JOB_NUM_NODES"]) == ("gpu[05-08]", "4")


@pytest.mark.parametrize(
    "elsewhere", [{"SLURM_STEP_NUM_TASKS": None}, {"SLURM_STEP_NUM_TASKS": "1"}, {"TORCHELASTIC_RUN_ID": "none"}]
)
def test_a_batch_script_a_single_task_and_torchrun_are_left_alone(monkeypatch, elsewhere):
    variables = joined(monkeypatch, **elsewhere)
    assert (variables["RANK"], variables["WORLD_SIZE"]) == ("0", "1")
    assert "MASTER_ADDR" not in variables


def test_only_a_job_that_asks_for_it_is_requeued(monkeypatch):
    monkeypatch.setattr(os, "environ", {"PATH": ""})  # where there is no scontrol
    assert slurm.leave(75) == 75
    monkeypatch.setattr(os, "environ", {**STEP, "DISTCLS_REQUEUE": "1", "PATH": ""})
    assert slurm.leave(0) == 0 and slurm.leave(70) == 70


@pytest.mark.parametrize(("requeue", "code"), [({"DISTCLS_REQUEUE": "1"}, 0), ({}, 128 + signal.SIGTERM)])
def test_in_a_job_that_comes_back_a_second_signal_does_not_end_the_process(requeue, code):
    program = (
        "import os, signal, time\n"
        "from distcls.cluster import signals, slurm\n"
        "signals.install(second_leaves=not slurm.comes_back())\n"
        "os.kill(os.getpid(), signal.SIGUSR2); os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.5)\n"
        "print(signals.received())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **requeue}, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == code, done.stderr
    assert code or done.stdout == "SIGUSR2\n"
