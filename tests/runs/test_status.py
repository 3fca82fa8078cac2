"""status.json says how long a run took, however often it was stopped and resumed."""

from __future__ import annotations

import json
import time

import pytest

from distcls.runs.status import StatusFile, read_status


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
