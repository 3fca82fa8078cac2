"""A sweep on a real Slurm: trials are elements of arrays, found again by a sweep that was killed, and none twice."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import pytest
from ranks import read_json

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]
optuna = pytest.importorskip("optuna", reason="NO SEARCH IS TESTED: pip install 'distcls[tune]'")

REPOSITORY = Path(__file__).parents[2]
CLUSTER = Path(__file__).with_name("cluster")
CANNOT = 69
"""Exit code of the script where Slurm is not installed, and cannot be."""

SHORT = ["train.num_steps=30", "train.checkpoint_every=5 steps", "train.num_threads=1", "data.workers=0"]
SHORT += ["run.trackers=[]", "model.args.hidden=16"]


@pytest.fixture
def cluster(tmp_path):
    """A folder with a Slurm of virtual nodes."""
    try:
        started = subprocess.run([CLUSTER, "start", tmp_path], stderr=subprocess.PIPE, text=True, timeout=90)
        if started.returncode == CANNOT:
            warnings.warn(f"NO SWEEP ON SLURM IS TESTED: {started.stderr}", stacklevel=1)
            pytest.skip(started.stderr)
        assert started.returncode == 0, started.stderr
        yield tmp_path
    finally:
        subprocess.run([CLUSTER, "stop", tmp_path], timeout=90, check=True)


def environment_of(cluster: Path) -> dict[str, str]:
    return {
        **os.environ,
        "SLURM_CONF": str(cluster / "slurm.conf"),
        "PYTHONPATH": str(REPOSITORY),
        "XDG_CACHE_HOME": str(cluster / "cache"),
    }


def words_of(cluster: Path, *words: str) -> list[str]:
    """The command of a sweep, two jobs at once."""
    options = ["--parallel", "2", "--cpu", "--time", "60", "--job-dir", str(cluster / "jobs"), "--partition", "low"]
    return [sys.executable, "-m", "distcls", "sweep", "--name", "s", *words, *options, *SHORT]


def jobs_of(environment: dict[str, str]) -> list[str]:
    """All jobs so far, each with its name and place."""
    call = ["scontrol", "show", "job", "-o"]
    shown = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=60)
    return [line for line in shown.stdout.splitlines() if "JobName=distcls-" in line]


def test_one_decider_two_jobs_at_once_and_a_kill(cluster: Path) -> None:
    environment, words = environment_of(cluster), words_of(cluster, "optim.lr=1e-3,1e-2,2e-2,3e-2")
    folder = cluster / "sweeps" / "s"

    def start() -> subprocess.Popen:
        with (cluster / "log.txt").open("ab") as log:
            return subprocess.Popen(words, cwd=cluster, env=environment, stdout=log, stderr=log)

    def await_jobs(process: subprocess.Popen) -> None:
        end = time.monotonic() + 120
        while not jobs_of(environment):
            assert time.monotonic() < end and process.poll() is None, (cluster / "log.txt").read_text()
            time.sleep(0.2)

    process = start()
    try:
        await_jobs(process)
        process.kill()
        process.wait()
        process = start()
        assert process.wait(600) == 0, (cluster / "log.txt").read_text()
    finally:
        process.kill()
    storage = optuna.storages.journal
    opened = storage.JournalStorage(storage.JournalFileBackend(str(folder / "study.journal")))
    trials = optuna.load_study(study_name="s", storage=opened).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 4
    for run in sorted(folder.glob("trial-*")):
        assert read_json(run / "status.json")["state"] == "finished"
        assert (run / "log.txt").read_text().count("folder   ") == 1, "trained once"
    shown = [dict(word.partition("=")[::2] for word in line.split()) for line in jobs_of(environment)]
    assert len(shown) == 4, "a job for each trial"
    sizes = Counter(job["JobName"] for job in shown)
    assert max(sizes.values()) == 2, "the first two are one array"


def test_data_that_is_not_there_ends_the_sweep_and_no_trial(cluster: Path) -> None:
    """The jobs end before they have a run folder: only Slurm knows their exit code."""
    environment = environment_of(cluster)
    words = words_of(cluster, "optim.lr=1e-3,1e-2,2e-2,3e-2", "data.name=folder", f"data.root={cluster}/photos")
    done = subprocess.run(words, cwd=cluster, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 66, done.stdout + done.stderr
    assert f": the image folder {cluster}/photos does not exist" in done.stderr, "what the job said"
    assert len(jobs_of(environment)) == 2, "none was submitted again"
    storage = optuna.storages.journal
    opened = storage.JournalStorage(storage.JournalFileBackend(str(cluster / "sweeps" / "s" / "study.journal")))
    trials = optuna.load_study(study_name="s", storage=opened).trials
    assert [trial.state.name for trial in trials] == ["RUNNING"] * 2, "to be trained once it is there"
