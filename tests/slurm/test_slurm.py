"""On a real Slurm: whatever it does to a job, the run comes back and ends with the bits of one left alone.

Two clusters of virtual nodes run all scenarios side by side, because each start of a job imports torch four times.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ledger
import pytest
from ranks import Ranks, read_json

from distcls.config.loading import read_config

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

REPOSITORY = Path(__file__).parents[2]
CLUSTER = Path(__file__).with_name("cluster")
STEPS = 300
CANNOT = 69
"""Exit code of the script where Slurm is not installed, and cannot be."""
LIMIT = 180
"""Seconds that anything may take."""

# Only a stop saves, so a stop that is missed costs the run all its steps.
SETTINGS = """
data: {workers: 0}
model: {name: "slow_model:make", args: {while_exists: %s}}
optim: {name: sgd, lr: 0.05}
augment: {pad_crop: 1, mixup: 0.4}
train: {num_steps: 300, global_batch_size: 32, micro_batch_size: 4, num_threads: 1, ema_decay: 0.9,
  eval_every: 100 steps, checkpoint_every: 300 steps}
run: {trackers: []}
"""


class Cluster:
    """Slurm in a folder, and what the scenarios in it need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def call(self, *command: str | Path) -> str:
        """Run a command on this cluster; its output."""
        paths = [REPOSITORY, REPOSITORY / "tests", Path(__file__).parent]
        environment = {
            **os.environ,
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "PYTHON": sys.executable,
            "XDG_CACHE_HOME": str(self.folder / "cache"),
        }
        result = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, f"{command}: {result.stdout}\n{result.stderr}"
        return result.stdout

    def submit(self, name: str, *words: str) -> Job:
        """`distcls submit`, on CPUs."""
        job = Job(self, name)
        command = [sys.executable, "-m", "distcls", "submit", "--cpu", *job.words, "--job-dir", self.folder]
        output = self.call(*command, "--partition", "low", "--time", "60", *words)
        job.number = output.split("job ")[1].split(",")[0]
        return job

    def run_script(self, name: str, *options: str) -> Job:
        """`sbatch launch/slurm/train.sbatch`."""
        job = Job(self, name)
        script = REPOSITORY / "launch" / "slurm" / "train.sbatch"
        job.number = self.call("sbatch", "-p", "low", "-o", "%j.out", *options, script, *job.words).split()[-1]
        return job

    def preempt(self, nodes: str, grace: int) -> None:
        """Run something more important on these nodes."""
        self.call("scontrol", "update", "PartitionName=low", f"GraceTime={grace}")
        self.call("sbatch", "-p", "high", "-w", nodes, "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")


class Job:
    """A job whose run is in runs/NAME, slow until `hurry`."""

    number: str
    last_pid: int | None = None

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        self.run_dir = cluster.folder / "runs" / name
        self.slow, config = cluster.folder / f"{name}.slow", cluster.folder / f"{name}.yaml"
        self.slow.touch()
        config.write_text(SETTINGS % self.slow)
        self.words = ["-c", str(config), "--name", name]

    def show(self) -> dict[str, str]:
        """What `scontrol show job` says: JobState, Restarts …"""
        words = self.cluster.call("scontrol", "show", "job", "-o", self.number).split()
        return dict(word.partition("=")[::2] for word in words)

    def status(self) -> dict:
        """status.json, or nothing."""
        return read_json(self.run_dir / "status.json") if (self.run_dir / "status.json").exists() else {}

    def output(self) -> str:
        """What the tasks wrote."""
        logs = sorted(self.cluster.folder.glob(f"{self.number}[_.]*out"))
        return "\n".join(f"--- {log.name}\n{log.read_text()}" for log in logs)

    def wait(self, what: str, condition: Callable[[], bool]) -> None:
        """Fails where the job has ended badly, or after LIMIT."""
        end = time.monotonic() + LIMIT
        while not condition():
            time.sleep(0.5)
            shown = self.show()
            assert time.monotonic() < end, f"{self.name}: not {what}: {shown} {self.status()}\n{self.output()}"
            assert shown["JobState"] not in ("FAILED", "TIMEOUT", "NODE_FAIL"), f"{shown}\n{self.output()}"

    def await_state(self, state: str) -> None:
        self.wait(state, lambda: self.show()["JobState"] == state)

    def await_step(self, step: int, restarts: int = 0) -> int:
        """Wait until the run has come to this step, in a job that was restarted so often; the step by now.

        Each call wants other processes than the last: those go on for a moment after the restart is counted.
        """

        def is_there() -> bool:
            status = self.status()
            at_work = status.get("state") == "running" and status["step"] >= step and status["pid"] != self.last_pid
            return at_work and int(self.show()["Restarts"]) == restarts

        self.wait(f"at step {step} after {restarts} restarts", is_there)
        self.last_pid = self.status()["pid"]
        return self.status()["step"]

    def resumes(self, step: int, restarts: int) -> int:
        """Wait until the run, stopped at this step or later, is at work again; fails where a step was lost."""
        reached = self.await_step(step + 3, restarts)
        checkpoints = [int(path.name.split("-")[1]) for path in self.run_dir.glob("checkpoints/step-*")]
        assert step <= max(checkpoints), f"stopped at {step} or later, saved {checkpoints}\n{self.output()}"
        return reached

    def signal(self, name: str) -> None:
        self.cluster.call("scancel", f"--signal={name}", self.number)

    def finish(self) -> dict[str, str]:
        """SHA-256 of what the run ends with."""
        self.slow.unlink()
        self.await_state("COMPLETED")
        assert self.status()["state"] == "finished", self.output()
        assert read_json(self.run_dir / "env.json")["world_size"] == 4
        return ledger.digest(self.run_dir, STEPS)


# Scenarios -----------------------------------------------------------------------------------------


def submitted(cluster: Cluster) -> dict[str, str]:
    """Everything that can happen to a job, more often than submitit would put up with."""
    job = cluster.submit("submitted", "--nodes=2", "--tasks-per-node=2", "--slurm=nodelist=node[1-2]")
    job.wait("started", lambda: "Starting with" in job.output())
    time.sleep(2)
    job.signal("USR2")  # while it imports torch
    step = job.await_step(3, restarts=1)
    cluster.call("scontrol", "requeue", job.number)
    step = job.resumes(step, restarts=2)
    cluster.preempt("node[1-2]", grace=10)
    step = job.resumes(step, restarts=3)
    cluster.preempt("node[1-2]", grace=0)
    step = job.resumes(step, restarts=4)
    cluster.call("scontrol", "update", f"JobId={job.number}", "TimeLimit=2")  # so that the signal is due
    job.wait("requeued", lambda: int(job.show()["Restarts"]) == 5)
    cluster.call("scontrol", "update", f"JobId={job.number}", "TimeLimit=60")
    job.resumes(step, restarts=5)
    return job.finish()


def by_script(cluster: Cluster) -> dict[str, str]:
    """The script for sites without submitit, where a preempted job gets no user signal."""
    job = cluster.run_script("script", "-N2", "--ntasks-per-node=2", "-w", "node[1-2]")
    step = job.await_step(3)
    cluster.preempt("node[1-2]", grace=10)
    step = job.resumes(step, restarts=1)
    cluster.preempt("node[1-2]", grace=0)
    job.resumes(step, restarts=2)
    return job.finish()


def cancelled(cluster: Cluster) -> dict[str, str]:
    """What scancel ends stays ended, and can be resumed, here without Slurm."""
    job = cluster.submit("cancelled", "--nodes=2", "--tasks-per-node=2", "--slurm=nodelist=node[3-4]")
    step = job.await_step(3)
    cluster.call("scancel", job.number)
    job.wait("saved", lambda: job.status()["state"] == "preempted")
    assert job.status()["step"] >= step, job.output()
    job.await_state("CANCELLED")
    time.sleep(6)  # a requeued job would be back by then
    assert (job.show()["JobState"], job.show()["Restarts"]) == ("CANCELLED", "0"), job.output()
    job.slow.unlink()
    with Ranks(cluster.folder) as ranks:
        ranks.run("train", *job.words, "run.device=cpu", world_size=4, setup=see_slow_model)
    return ledger.digest(job.run_dir, STEPS)


def array(cluster: Cluster) -> list[tuple[str, int]]:
    """Two seeds, both asked to stop, and both back; how they ended, and with which seed."""
    job = cluster.submit("array", "--array=train.seed=1,2", "--slurm=nodelist=node3", "train.num_steps=20")
    job.number = job.number.split("_")[0]
    elements = [Job(cluster, f"array-seed{seed}") for seed in (1, 2)]
    for index, element in enumerate(elements):
        element.number = f"{job.number}_{index}"
        element.await_step(1)
    job.signal("USR2")
    for element in elements:
        element.await_step(1, restarts=1)
    job.slow.unlink()
    for element in elements:
        element.await_state("COMPLETED")
    return [(e.status()["state"], read_config(e.run_dir / "config.yaml").train.seed) for e in elements]


def uninterrupted(folder: Path) -> dict[str, str]:
    """The run that nobody disturbs."""
    (folder / "small.yaml").write_text(SETTINGS % (folder / "slow"))
    with Ranks(folder) as ranks:
        words = ["train", "-c", "small.yaml", "--name", "whole", "run.device=cpu"]
        assert ranks.start(*words, world_size=4, setup=see_slow_model).wait(limit=240) == [0] * 4
    return ledger.digest(folder / "runs" / "whole", STEPS)


def see_slow_model() -> None:
    """Setup of forked ranks."""
    sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def clusters(tmp_path_factory):
    """One that sends the user signal when it preempts, and one that does not."""
    folders = [tmp_path_factory.mktemp("slurm") for _ in range(2)]
    try:
        for folder, line in zip(folders, ["SlurmctldParameters=preempt_send_user_signal", ""], strict=True):
            started = subprocess.run([CLUSTER, "start", folder, line], stderr=subprocess.PIPE, text=True, timeout=90)
            if started.returncode == CANNOT:
                warnings.warn(f"NOTHING ON SLURM IS TESTED: {started.stderr}", stacklevel=1)
                pytest.skip(started.stderr)
            assert started.returncode == 0, started.stderr
        yield [Cluster(folder) for folder in folders]
    finally:
        for folder in folders:
            subprocess.run([CLUSTER, "stop", folder], timeout=90, check=True)


@pytest.fixture(scope="module")
def outcomes(clusters, server, tmp_path_factory):
    """All scenarios, on their way."""
    with_signal, without = clusters
    with ThreadPoolExecutor() as pool:
        yield {
            "submitted": pool.submit(submitted, with_signal),
            "cancelled": pool.submit(cancelled, with_signal),
            "by_script": pool.submit(by_script, without),
            "array": pool.submit(array, without),
            "uninterrupted": pool.submit(uninterrupted, tmp_path_factory.mktemp("whole")),
        }


@pytest.mark.parametrize("scenario", ["submitted", "by_script", "cancelled"])
def test_a_run_that_slurm_interrupts_ends_with_the_bits_of_one_left_alone(outcomes, scenario):
    assert outcomes[scenario].result() == outcomes["uninterrupted"].result()


def test_the_elements_of_an_array_are_runs_of_their_own(outcomes):
    assert outcomes["array"].result() == [("finished", 1), ("finished", 2)]
