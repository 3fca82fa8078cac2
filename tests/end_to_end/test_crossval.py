"""Cross-validation is ordinary runs, one for each fold, that can be stopped and go on."""

from __future__ import annotations

import os
import signal
import statistics

import pytest
from ranks import await_step, read_json

SETTINGS = [
    "data.folds=2",
    "train.num_epochs=null",
    "train.num_steps=150",
    "train.global_batch_size=16",
    "train.eval_every=50 steps",
    "train.checkpoint_every=50 steps",
    "train.num_threads=1",
    "run.trackers=[]",
]


@pytest.mark.timeout(300)
def test_all_folds_are_run_and_a_killed_or_stopped_one_goes_on(ranks) -> None:
    runs = [ranks.folder / "runs" / f"cv-fold{fold}" for fold in range(2)]
    group = ranks.start("crossval", "--name", "cv", *SETTINGS)
    await_step(runs[0], 10)
    group.kill()
    (runs[0] / "status.json").unlink()
    group = ranks.start("crossval", "--name", "cv", *SETTINGS)
    await_step(runs[1], 10)
    os.kill(group.processes[0].pid, signal.SIGTERM)
    assert group.wait() == [75], group.output()
    stopped = read_json(runs[1] / "status.json")
    assert stopped["state"] == "preempted" and stopped["reason"] == "SIGTERM"
    told = ranks.run("crossval", "--name", "cv", *SETTINGS, "train.num_steps=200", expect=2)
    assert "runs/cv-fold1 holds a run with a different config:\n  train.num_steps: 150 -> 200" in told
    assert read_json(runs[0] / "status.json")["step"] == 150, "no fold was made longer before that was found"

    output = ranks.run("crossval", "--name", "cv", *SETTINGS)
    assert [read_json(run / "status.json")["state"] for run in runs] == ["finished"] * 2
    splits = [read_json(run / "splits.json") for run in runs]
    assert splits[0]["test"] == splits[1]["test"]
    assert set(splits[0]["val"]) == set(splits[1]["train"]) and set(splits[0]["train"]) == set(splits[1]["val"])
    values = [read_json(run / "metrics.json")["val"]["accuracy"] for run in runs]
    summary = read_json(ranks.folder / "runs" / "cv-crossval.json")
    assert summary["val"]["accuracy"] == {
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values),
        "folds": values,
    }
    assert set(summary) == {"runs", "val", "test"}
    mean = next(line for line in output.splitlines() if line.startswith("mean"))
    assert f"{statistics.fmean(values):.2%}" in mean
