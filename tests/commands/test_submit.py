"""What `distcls submit` would hand to Slurm, read from its script; tests/slurm hands it over."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from distcls.cli import main
from distcls.commands import slurm_job
from distcls.commands.slurm_job import SHIELDED
from distcls.config.loading import read_config

ON_CPUS = ["submit", "--cpu", "--time", "60", "--job-dir", "/shared/jobs", "--dry-run"]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def dry_run(capsys, *words: str) -> list[str]:
    """The lines of the script, which is all that a dry run makes."""
    assert main([*ON_CPUS, *words]) == 0
    assert list(Path.cwd().iterdir()) == []
    return capsys.readouterr().out.splitlines()


def test_the_script_asks_for_what_was_said_and_for_nothing_else(capsys):
    lines = dry_run(
        capsys, "--nodes", "2", "--tasks-per-node", "4", "--name", "x", "--slurm", "qos=long", "data.workers=3"
    )
    assert {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")} == {
        *("nodes=2", "ntasks-per-node=4", "cpus-per-task=4", "time=60", "qos=long", "job-name=x"),
        *("requeue", "signal=USR2@120", "open-mode=append", "output=/shared/jobs/%j_0_log.out"),
    }
    assert {"trap : TERM USR1 USR2", "export DISTCLS_REQUEUE=1"} <= set(lines)
    srun = next(line for line in lines if line.startswith("srun"))
    assert "--kill-on-bad-exit=1 --cpus-per-task=4" in srun and 'trap "" TERM' in srun and sys.executable in srun


def test_gpus_mean_a_process_each(capsys):
    assert main(["submit", "--gpus-per-node", "8", *ON_CPUS[2:], "--partition", "p", "--time", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"#SBATCH --gpus-per-node=8", "#SBATCH --ntasks-per-node=8", "#SBATCH --partition=p"} <= set(lines)
    assert "#SBATCH --signal=USR2@30" in lines, "half of a short time"


@pytest.mark.parametrize(
    ("written", "minutes"),
    [
        ("90", 90),
        ("90m", 90),
        ("8h", 480),
        ("2d", 2880),
        ("1:30:00", 90),
        ("2:30", 3),
        ("1-12", 2160),
        ("1-00:30", 1470),
    ],
)
def test_time_is_written_as_for_sbatch_or_in_short(capsys, written, minutes):
    assert f"#SBATCH --time={minutes}" in dry_run(capsys, "--time", written)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--time", "2 hours"], "'2 hours' is not a time: write minutes, or 8h, 2:30:00, 1-12:00 (days-hours)"),
        (["--time", "0"], "'0' is not a time"),
        (["optim.lrr=1"], "unknown setting optim.lrr"),
        (["--nodes", "3"], "train.global_batch_size=64 cannot be cut into equal parts for 3 processes"),
        (["--job-dir", "jobs"], "--job-dir jobs: give an absolute path that is visible to all nodes"),
        (["--signal-delay", "3600"], "--signal-delay 3600: the job would be asked to stop before it starts"),
        (["--array", "train.seed"], "write key=v1,v2,… with different values, such as train.seed=0,1,2"),
        (["--array", "train.sed=1,2"], "unknown setting train.sed: did you mean 'train.seed'?"),
        (["--nodes", "0"], "argument --nodes: '0' is not a whole number of 1 or more"),
    ],
)
def test_a_mistake_is_found_before_anything_is_submitted(words, message, capsys):
    assert main([*ON_CPUS, *words]) == 2
    assert message in capsys.readouterr().err


def test_tasks_per_node_are_not_for_gpus(capsys):
    assert main(["submit", "--gpus-per-node", "8", "--tasks-per-node", "2", *ON_CPUS[2:]]) == 2
    assert "--tasks-per-node needs --cpu" in capsys.readouterr().err


def test_without_slurm_nothing_is_written(capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert main(ON_CPUS[:-1]) == 66
    assert "sbatch is not on the PATH" in capsys.readouterr().err
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("reason", "code", "told"),
    [
        ("Batch job submission failed: Socket timed out on send/recv operation", 1, "Slurm did not answer"),
        ("Batch job submission failed: Unable to contact slurm controller (connect failure)", 1, "did not answer"),
        ("invalid partition specified: x", 2, "Slurm refused the job"),
    ],
)
def test_no_answer_is_no_refusal(reason, code, told, capsys, tmp_path, monkeypatch):
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\necho 'sbatch: error: {reason}' >&2; exit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert main(["submit", "--cpu", "--time", "60", "--job-dir", str(tmp_path / "jobs")]) == code
    error = capsys.readouterr().err
    assert told in error and reason in error


def test_a_signal_before_the_handlers_are_there_kills_nothing():
    task = "import sys, time; print('up', flush=True); time.sleep(0.5); print('alive')"
    shield = shlex.split(SHIELDED)
    with subprocess.Popen([*shield, sys.executable, "-c", task], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGUSR2)
        assert process.communicate(timeout=30)[0] == "alive\n"
    script = Path(__file__).parents[2] / "launch" / "slurm" / "train.sbatch"
    assert SHIELDED in script.read_text()


def test_a_container_has_all_that_a_run_reads(capsys, tmp_path_factory):
    shared = tmp_path_factory.mktemp("shared")
    for name in ("csv/labels.csv", "weights/resnet.safetensors", "exclude/audit.csv"):
        (shared / name).parent.mkdir()
        (shared / name).touch()
    (shared / "cache").mkdir()
    script = dry_run(
        *(capsys, "--container", "image.sqsh", "--name", "x", "--data", str(shared / "csv/labels.csv")),
        *("data.name=csv", f"model.weights={shared}/weights/resnet.safetensors", "model.name=timm/resnet18"),
        *(f"data.exclude={shared}/exclude/audit.csv", f"data.cache_dir={shared}/cache"),
    )
    (line,) = [line for line in script if "--container-mounts=" in line]
    mounted = line.partition("--container-mounts=")[2].split()[0].split(",")
    assert {f"{shared}/{name}:{shared}/{name}" for name in ("csv", "weights", "exclude", "cache")} <= {*mounted}


FAKES = {
    "scontrol": 'case $1 in show) echo "JobId=7 JobState=$STATE Restarts=0";; *) echo "$@" >>asked;; esac',
    "srun": "exit $CODE",
}


@pytest.mark.parametrize(
    ("code", "status", "state", "asked"),
    [
        (0, "preempted", "RUNNING", "requeue 7_1\n"),
        (0, "preempted", "CANCELLED", ""),
        (0, "finished", "RUNNING", ""),
        (1, "preempted", "RUNNING", ""),  # what an earlier start left
    ],
)
def test_a_job_in_a_container_is_requeued_from_outside(code, status, state, asked, capsys, tmp_path):
    script = dry_run(capsys, "--container", "image.sqsh", "--array", "train.seed=1,2", "--name", "x", "--data", "/d")
    assert "export DISTCLS_REQUEUE=script" in script
    mounts = ":".join([str(tmp_path)] * 2)
    assert any(f"--container-image=image.sqsh --container-mounts={mounts},/shared/jobs" in line for line in script)
    for name, body in FAKES.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "asked").touch()
    run_dir = tmp_path / "runs" / "x-seed2"
    run_dir.mkdir(parents=True)
    (run_dir / "status.json").write_text(f'{{"state": "{status}", "step": 3}}\n')
    element = {"SLURM_JOB_ID": "8", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CODE": str(code), "STATE": state, **element}
    assert subprocess.run(["bash", "-c", "\n".join(script)], env=environment, timeout=30).returncode == code
    assert (tmp_path / "asked").read_text() == asked


def test_a_preset_still_chooses_when_the_job_starts(ranks, monkeypatch):
    """The job's config holds only what was given, and the folder that is reserved for it has started nothing."""
    for i in range(40):
        folder = ranks.folder / "photos" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (64, 72, 3), np.uint8)).save(folder / f"{i}.png")
    submitted = []
    monkeypatch.setattr(slurm_job, "submit_words", lambda executor, words, job_dir: submitted.extend(words) or [Job()])
    monkeypatch.setattr("shutil.which", lambda name: name)
    (ranks.folder / "jobs").mkdir()
    words = ["--cpu", "--time", "60", "--job-dir", str(ranks.folder / "jobs"), "--data", "photos", "--name", "a"]
    assert main(["submit", *words, "optim.weight_decay=0.03", "train.num_steps=1"]) == 0
    (command,) = submitted
    ranks.run("train", *command, "model.name=timm/test_resnet", "model.pretrained=false", "run.trackers=[]")
    config = read_config(ranks.folder / "runs" / "a" / "config.yaml")
    assert (config.preset, config.optim.weight_decay, config.train.num_steps) == ("scratch", 0.03, 1)
    assert config.data.root == "photos" and config.train.global_batch_size == 32


class Job:
    """What submitit returns, as far as it is printed."""

    job_id = "7"
    paths = SimpleNamespace(stdout="jobs/7.out")
