"""Real runs are compared from what they leave in their folders."""

from __future__ import annotations

import csv
import re

from ranks import read_json

SETTINGS = ["train.num_steps=16", "train.eval_every=8 steps", "train.num_threads=1", "run.trackers=[]"]


def test_real_runs_are_compared(ranks) -> None:
    for name, settings in (("a-seed0", []), ("a-seed1", ["train.seed=1"]), ("b", ["optim.lr=0.0001"])):
        ranks.run("train", "--name", name, *SETTINGS, *settings)
    runs = ranks.folder / "runs"
    assert 0 < read_json(runs / "b" / "status.json")["seconds"] < 90
    output = ranks.run("compare", "--csv", "all.csv", "--html", "all.html")
    assert re.search(r"^a \(2 seeds\) .*^b ", output, re.MULTILINE | re.DOTALL), "the better first"
    assert "<svg" in (ranks.folder / "all.html").read_text()
    with (ranks.folder / "all.csv").open(newline="") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    measured = read_json(runs / "b" / "metrics.json")["test"]
    row = rows["runs/b"]
    assert float(row["test.accuracy"]) == measured["accuracy"]
    assert [float(row["test.accuracy.low"]), float(row["test.accuracy.high"])] == measured["intervals"]["accuracy"]
    header = re.search(r"model +\S+, ([\d,]+) parameters", (runs / "b" / "log.txt").read_text())
    assert header is not None and row["parameters"] == header[1].replace(",", "")
    output = ranks.run("compare", "runs/a-seed0", "runs/b")
    assert "b beside a-seed0, on the same 359 test images" in output and "is more than chance" in output
    assert re.search(r"^optim\.lr +0\.002 +0\.0001$", output, re.MULTILINE)
