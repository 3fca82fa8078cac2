"""status.json says how long a run took, however often it was stopped and resumed."""

from __future__ import annotations

import json
import os
import subprocess
import time

import pytest

from distcls.runs import status as status_module
from distcls.runs.status import StatusFile, is_training, read_status, state_of


def test_the_time_of_all_starts_is_added_up(tmp_path, monkeypatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    status = StatusFile(tmp_path)
    for seconds, state, phase in ((0, "running", "start"), (5, "running", "train"), (7, "preempted", "end")):
        clock[0] = 100 + seconds
        status.write(state, 3, phase)
        assert read_status(tmp_path)["seconds"] == seconds
    clock[0] = 500
    resumed = StatusFile(tmp_path)
    resumed.write("running", 3, "start")
    clock[0] = 502
    resumed.write("running", 4, "train")
    assert read_status(tmp_path)["seconds"] == 9


@pytest.mark.parametrize("seconds", [None, "1e9", True])
def test_a_time_that_is_none_counts_as_nothing(tmp_path, seconds) -> None:
    (tmp_path / "status.json").write_text(json.dumps({"state": "preempted", "seconds": seconds}))
    StatusFile(tmp_path).write("running", 0, "start")
    assert 0 <= read_status(tmp_path)["seconds"] < 60


def test_a_run_that_failed_notes_its_exit_code(tmp_path) -> None:
    StatusFile(tmp_path).write("failed", 3, "end", "no such data", 66)
    assert read_status(tmp_path)["exit_code"] == 66
    StatusFile(tmp_path).write("running", 3, "train")
    assert "exit_code" not in read_status(tmp_path)
    StatusFile(tmp_path).write_end_of_start("failed", "no such data", 66)
    assert read_status(tmp_path)["exit_code"] == 66
    StatusFile(tmp_path).write("finished", 3, "end")
    StatusFile(tmp_path).write_end_of_start("failed", "no such data", 66)
    assert read_status(tmp_path)["state"] == "finished" and "exit_code" not in read_status(tmp_path)


def test_where_locks_cannot_be_asked_process_and_time_tell_whether_a_run_is_trained(tmp_path, monkeypatch) -> None:
    assert not is_training(tmp_path)
    monkeypatch.setattr(status_module, "_is_locked", lambda _: None)
    with subprocess.Popen(["sleep", "60"]) as process:
        (tmp_path / "status.json").write_text(json.dumps({"state": "running", "pid": process.pid}))
        os.utime(tmp_path / "status.json", (0, 0))
        assert is_training(tmp_path)
        process.kill()
    assert not is_training(tmp_path) and state_of(tmp_path) == "running"
    os.utime(tmp_path / "status.json")
    assert is_training(tmp_path), "by a process of another machine"
    monkeypatch.setattr(status_module, "_is_locked", lambda _: False)
    assert not is_training(tmp_path)


@pytest.mark.parametrize("pid", [None, 0, -1, "1", 10**30])
def test_a_status_without_a_process_is_of_none(tmp_path, monkeypatch, pid) -> None:
    monkeypatch.setattr(status_module, "_is_locked", lambda _: None)
    (tmp_path / "status.json").write_text(json.dumps({"state": "running", "pid": pid}))
    os.utime(tmp_path / "status.json", (0, 0))
    assert not is_training(tmp_path)
