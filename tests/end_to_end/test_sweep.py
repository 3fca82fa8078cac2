"""A sweep of real trainings, whose sweep process and trials are killed: none is trained twice, and the results stay."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from ranks import read_json

from distcls.config.differences import differences
from distcls.config.loading import load_config, read_config
from distcls.runs.resuming import newest_step
from distcls.runs.status import is_finished, read_status, state_of
from distcls.runs.tracking.metrics_file import read_metrics

pytestmark = [pytest.mark.extras, pytest.mark.timeout(2400)]
optuna = pytest.importorskip("optuna", reason="NO SEARCH IS TESTED: pip install 'distcls[tune]'")

SHORT = ["train.num_epochs=null", "train.num_steps=60", "train.checkpoint_every=5 steps", "train.eval_every=20 steps"]
SHORT += ["train.num_threads=1", "data.workers=0", "run.trackers=[]", "run.device=cpu", "train.keep_checkpoints=9"]


class Command:
    """`distcls sweep` in a folder, as a process of its own: trials die with the process that starts them."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.folder, self.words = folder, words
        self.process: subprocess.Popen | None = None

    def start(self) -> subprocess.Popen:
        log = (self.folder / "log.txt").open("ab")
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "distcls", "sweep", *self.words, *SHORT]
        self.process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)
        return self.process

    def run(self, expect: int = 0) -> str:
        assert self.start().wait(1200) == expect, self.output()
        return self.output()

    def output(self) -> str:
        return (self.folder / "log.txt").read_text()

    def trials(self, name: str) -> list[Any]:
        storage = optuna.storages.journal
        file = self.folder / "sweeps" / name / "study.journal"
        opened = storage.JournalStorage(storage.JournalFileBackend(str(file)))
        return optuna.load_study(study_name=name, storage=opened).trials


@pytest.fixture
def sweep(tmp_path):
    """Makes commands, and ends what is left of them."""
    made: list[Command] = []

    def make(*words: str, folder: str = ".") -> Command:
        (tmp_path / folder).mkdir(exist_ok=True)
        made.append(Command(tmp_path / folder, *words))
        return made[-1]

    yield make
    for command in made:
        if command.process is not None:
            command.process.kill()
            command.process.wait()


def running(folder: Path) -> dict[str, int]:
    """The runs that are being trained now, and their processes."""
    found = [path.parent for path in folder.glob("*/status.json")]
    return {run.name: read_status(run)["pid"] for run in found if state_of(run) == "running"}


def await_running(folder: Path, command: Command, limit: float = 300) -> dict[str, int]:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        now = running(folder)
        if now:
            return now
        assert command.process is not None and command.process.poll() is None, command.output()
        time.sleep(0.02)
    raise AssertionError(f"nothing is trained\n{command.output()}")


def await_finished(folder: Path, count: int, command: Command, limit: float = 600) -> None:
    """Wait until so many runs have finished."""
    end = time.monotonic() + limit
    while sum(is_finished(run) for run in folder.glob("trial-*")) < count:
        assert time.monotonic() < end, command.output()
        time.sleep(0.02)


GRID = ["optim.lr=1e-3,3e-3,1e-2,3e-2", "model.args.dropout=0,0.2,0.4", "model.args.hidden=16"]


def test_twelve_trials_killed_ten_times_end_as_if_nothing_had_been_killed(sweep, tmp_path) -> None:
    words = ["--name", "g", "--parallel", "2", *GRID]
    whole = sweep(*words, folder="whole")
    whole.run()
    killed, draw = sweep(*words, folder="killed"), random.Random(18)
    folder, kills, twice = tmp_path / "killed" / "sweeps" / "g", {"sweep": 0, "trial": 0}, 0
    early: Counter[str] = Counter()
    """How often a run may have been killed before it had a checkpoint."""
    killed.start()
    while sum(kills.values()) < 10:
        await_finished(folder, sum(kills.values()), killed)
        process = killed.process
        assert process is not None
        now = await_running(folder, killed)
        time.sleep(draw.random() * 1.5)
        twice += len(set(now.values())) < len(now)
        early.update(run.name for run in folder.glob("trial-*") if newest_step(run) == 0)
        if draw.random() < 0.5:
            process.kill()
            process.wait()
            kills["sweep"] += 1
            killed.start()
            continue
        for pid in list(running(folder).values())[:1]:
            os.kill(pid, signal.SIGKILL)
            kills["trial"] += 1
    assert killed.process is not None and killed.process.wait(1200) == 0, killed.output()
    assert min(kills.values()) >= 2 and twice == 0, kills
    results = [[(t.number, t.state, t.values, t.params) for t in one.trials("g")] for one in (whole, killed)]
    assert results[0] == results[1] and len(results[0]) == 12
    for run in sorted(folder.glob("trial-*")):
        assert is_finished(run)
        rows = [row for row in read_metrics(run / "metrics.csv") if row["split"] == "val"]
        assert [row["step"] for row in rows] == [20, 40, 60], "no evaluation twice, none missing"
        begun_anew = (run / "log.txt").read_text().count("folder") - (run / "log.txt").read_text().count(
            "resuming from"
        )
        assert begun_anew == 1, "it began once, and was resumed from a checkpoint after every kill"
    print(kills)


def test_a_trial_that_is_resumed_does_not_begin_anew(sweep, tmp_path) -> None:
    command = sweep("--name", "r", "optim.lr=1e-3,1e-2", "train.num_steps=400")
    folder = tmp_path / "sweeps" / "r"
    command.start()
    await_running(folder, command)
    end = time.monotonic() + 60
    while read_status(folder / "trial-0000").get("step", 0) < 40 and time.monotonic() < end:
        time.sleep(0.01)
    assert command.process is not None
    command.process.kill()
    command.process.wait()
    end = time.monotonic() + 30
    while running(folder) and time.monotonic() < end:
        time.sleep(0.05)
    assert not running(folder), "trials end with the sweep"
    status = read_status(folder / "trial-0000")
    assert status["state"] == "preempted" and status["step"] >= 40, "and save"
    command.run()
    assert f"resuming from step {status['step']}" in (folder / "trial-0000" / "log.txt").read_text()
    assert [trial.state.name for trial in command.trials("r")] == ["COMPLETE"] * 2


def test_ctrl_c_stops_all_trials_and_the_same_command_resumes(sweep, tmp_path) -> None:
    command = sweep("--name", "c", "--parallel", "2", "optim.lr=1e-3,1e-2,2e-2", "train.num_steps=300")
    folder = tmp_path / "sweeps" / "c"
    process = command.start()
    await_running(folder, command)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 75, command.output()
    assert "stopped by SIGINT; all trials have saved. Run the same command to resume" in command.output()
    assert not running(folder)
    command.run()
    assert [trial.state.name for trial in command.trials("c")] == ["COMPLETE"] * 3


def test_the_best_config_trains_to_the_same_result(sweep, tmp_path, ranks) -> None:
    (tmp_path / "base.yaml").write_text("model: {name: cnn2, args: {hidden: 16}}\noptim: {name: sgd}\n")
    (tmp_path / "space.yaml").write_text("variants:\n  slow: {optim.lr: 1e-5}\n  fast: {optim: {lr: 0.05}}\n")
    command = sweep("-c", "base.yaml", "--space", "space.yaml", "--seeds", "2")
    told = command.run()
    folder = tmp_path / "sweeps" / "space"
    assert {path.name for path in folder.glob("*-seed*")} == {f"{n}-seed{i}" for n in ("slow", "fast") for i in (0, 1)}
    lines = [line.split() for line in told.splitlines()]
    assert ["trial", "state", "val", "accuracy", "std", "time"] in lines
    best = folder / "best.yaml"
    assert load_config(best).optim.lr == 0.05 and "sweeps/space, " in best.read_text()
    trained, written = read_config(folder / "fast-seed0" / "config.yaml"), read_config(best)
    assert {one.path for one in differences(trained, written)} <= {"train.micro_batch_size", "train.precision"}
    ranks.run("train", "-c", str(best), "--name", "again", "run.device=cpu")
    results = [
        read_json(run / "metrics.json")["val"] for run in (folder / "fast-seed0", ranks.folder / "runs" / "again")
    ]
    assert results[0]["loss"] == results[1]["loss"]
    compared = ranks.run("compare", str(folder))
    table = compared.partition("settings that differ")[0]
    rows = [line.split()[0] for line in table.splitlines() if line.strip()]
    assert rows.count("fast") == rows.count("slow") == 1, "one row for each variant, with mean and deviation"
