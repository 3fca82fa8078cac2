"""Trials are processes that end with the sweep, on GPUs of their own; those of others are waited for.

The processes are shell scripts here. Real trainings are in end_to_end/test_sweep.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from made_runs import write

from distcls.config.settings import Config
from distcls.runs import status
from distcls.sweeps.search import local_runs
from distcls.sweeps.search.local_runs import LocalRuns, failure, visible_gpus
from distcls.sweeps.search.trial_run import INTERRUPTED, TrialRun


@pytest.fixture(autouse=True)
def shell(tmp_path, monkeypatch) -> None:
    """In place of Python, which would be given `-m distcls.train WORDS`: a shell that runs the last word."""
    script = tmp_path / "shell"
    script.write_text('#!/bin/sh\nfor last; do :; done\neval "$last"\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


def make_run(folder: Path, name: str, script: str) -> TrialRun:
    (folder / name).mkdir(exist_ok=True)
    return TrialRun(0, folder / name, (script,), Config())


def await_code(runs: LocalRuns, run: TrialRun) -> int:
    end = time.monotonic() + 60
    while (code := runs.code(run)) is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    return code


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 70", 70), ("exit 75", 75), ("kill -9 $$", INTERRUPTED), ("exit 143", INTERRUPTED)],
)
def test_how_a_run_ended(tmp_path, script, code) -> None:
    runs, run = LocalRuns(tmp_path, 1), make_run(tmp_path, "a", f"echo one; echo distcls: error: two; {script}")
    runs.start([run])
    assert await_code(runs, run) == code
    assert runs.last_words(run) == "distcls: error: two" and failure(run, runs.last_words(run)) == "two"
    write(run.dir, "status", {"state": "failed", "reason": "the loss\nis not finite"})
    assert failure(run, "") == "the loss is not finite"


def test_each_run_at_once_has_a_gpu_of_its_own(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    runs = LocalRuns(tmp_path, 2)
    some = [make_run(tmp_path, name, "echo $CUDA_VISIBLE_DEVICES; read line </dev/null") for name in "abc"]
    runs.start(some[:2])
    for run in some[:2]:
        await_code(runs, run)
    runs.start(some[2:])
    await_code(runs, some[2])
    assert [runs.last_words(run) for run in some] == ["3", "5", "3"]


@pytest.mark.parametrize(("given", "expected"), [("", []), ("1", ["1"]), ("0,2", ["0", "2"]), (None, ["0", "1"])])
def test_which_gpus_there_are(tmp_path, monkeypatch, given, expected) -> None:
    for name in ("a", "b"):
        (tmp_path / "gpus" / name).mkdir(parents=True)
    monkeypatch.setattr(local_runs, "GPUS", tmp_path / "gpus")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_gpus() == expected


def test_a_run_that_another_process_trains_is_waited_for(tmp_path, monkeypatch) -> None:
    answers = iter([True, True, True, False])
    monkeypatch.setattr(local_runs, "is_training", lambda _: next(answers))
    monkeypatch.setattr(local_runs, "state_of", lambda _: "preempted")
    runs, run = LocalRuns(tmp_path, 1), make_run(tmp_path, "a", "exit 1")
    runs.start([run])
    assert not (tmp_path / "output").exists(), "no process"
    assert [runs.code(run), runs.code(run), runs.code(run)] == [None, None, INTERRUPTED]


def test_a_process_that_finds_the_folder_locked_is_no_failure(tmp_path, monkeypatch) -> None:
    answers = iter([False, True, True, False])
    monkeypatch.setattr(local_runs, "is_training", lambda _: next(answers))
    monkeypatch.setattr(local_runs, "state_of", lambda _: "finished")
    runs, run = LocalRuns(tmp_path, 1), make_run(tmp_path, "a", "exit 2")
    runs.start([run])
    assert await_code(runs, run) == 0


def test_where_locks_cannot_be_asked_a_killed_run_is_started_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(status, "_is_locked", lambda _: None)
    script = f'echo \'{{"state": "running", "pid": \'$$\'}}\' >{tmp_path}/a/status.json; kill -9 $$'
    runs, run = LocalRuns(tmp_path, 1), make_run(tmp_path, "a", script)
    runs.start([run])
    assert await_code(runs, run) == INTERRUPTED
    again = make_run(tmp_path, "a", "exit 75")
    runs.start([again])
    assert await_code(runs, again) == 75, "the status of our own process says that it still trains"


def test_a_run_that_failed_elsewhere_has_the_exit_code_that_it_noted(tmp_path, monkeypatch) -> None:
    answers = iter([True, False])
    monkeypatch.setattr(local_runs, "is_training", lambda _: next(answers))
    runs, run = LocalRuns(tmp_path, 1), make_run(tmp_path, "a", "exit 1")
    runs.start([run])
    write(run.dir, "status", {"state": "failed", "exit_code": 65})
    assert runs.code(run) == 65


def test_a_run_is_asked_to_stop_once_and_killed_if_it_does_not(tmp_path, monkeypatch) -> None:
    script = f"trap 'echo asked >>{tmp_path}/asked' TERM; echo ready >{tmp_path}/ready; while :; do sleep 0.05; done"
    runs, run = LocalRuns(tmp_path, 1), make_run(tmp_path, "a", script)
    runs.start([run])
    wait_for((tmp_path / "ready").exists)
    runs.stop(run)
    runs.stop(run)
    wait_for((tmp_path / "asked").exists)
    assert runs.code(run) is None
    monkeypatch.setattr(local_runs, "SECONDS_TO_STOP", 0.0)
    assert await_code(runs, run) == INTERRUPTED
    assert (tmp_path / "asked").read_text() == "asked\n"


def test_what_is_not_ours_is_no_longer_waited_for(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(local_runs, "is_training", lambda _: True)
    runs, run = LocalRuns(tmp_path, 1), make_run(tmp_path, "a", "exit 1")
    for give_up in (runs.stop, runs.kill):
        runs.start([run])
        assert runs.code(run) is None
        give_up(run)
        assert runs.code(run) == INTERRUPTED


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a trial trains to its end")
def test_a_run_is_asked_to_stop_when_the_sweep_is_killed(tmp_path) -> None:
    script = f"trap 'echo saved >{tmp_path}/saved; exit 75' TERM; echo ready >{tmp_path}/ready; "
    script += "while :; do sleep 0.05; done"
    sweep = f"""
import sys, time
from pathlib import Path
from distcls.cluster import signals
from distcls.config.settings import Config
from distcls.sweeps.search.local_runs import LocalRuns
from distcls.sweeps.search.trial_run import INTERRUPTED, TrialRun
signals.install()
sys.executable = {sys.executable!r}
folder = Path({str(tmp_path)!r})
LocalRuns(folder, 1).start([TrialRun(0, folder / "a", ({script!r},), Config())])
time.sleep(60)
"""
    python = Path(sys.prefix) / "bin" / "python"
    process = subprocess.Popen([python, "-c", sweep])
    try:
        wait_for((tmp_path / "ready").exists)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    wait_for((tmp_path / "saved").exists)


def wait_for(condition: Callable[[], bool], limit: float = 60) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
