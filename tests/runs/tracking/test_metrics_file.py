"""metrics.csv survives a kill, and reads files of other versions."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from distcls.errors import DiskError, MissingInputError, UsageError
from distcls.runs.tracking.metrics_file import COLUMNS, read_metrics
from distcls.runs.tracking.trackers import Tracker


def train_row(step: int) -> dict:
    return {"step": step, "epoch": step / 7, "split": "train", "loss": 1 / (step + 3), "lr": 0.1 + 0.2}


def val_row(step: int) -> dict:
    return {"step": step, "epoch": step / 7, "split": "val", "loss": 2 / 3, "accuracy": 1 - 1 / (step + 2)}


def log_rows(run_dir: Path, steps: int, trackers: list[str]) -> Tracker:
    tracker = Tracker(run_dir, trackers)
    for step in range(1, steps + 1):
        tracker.log(train_row(step))
        tracker.log(val_row(step))
    return tracker


def test_rows_read_back_bit_for_bit(tmp_path):
    log_rows(tmp_path, 5, []).close()
    rows = read_metrics(tmp_path / "metrics.csv")
    assert len(rows) == 10
    assert all(list(row) == list(COLUMNS) for row in rows)
    for step in range(1, 6):
        train, val = rows[2 * step - 2], rows[2 * step - 1]
        assert {name: train[name] for name in train_row(step)} == train_row(step)
        assert {name: val[name] for name in val_row(step)} == val_row(step)
        assert isinstance(train["step"], int) and train["accuracy"] is None and val["lr"] is None
    assert datetime.fromisoformat(rows[0]["time"]).tzinfo == UTC


def test_values_that_are_no_plain_floats(tmp_path):
    import numpy as np

    tracker = Tracker(tmp_path, [])
    tracker.log({"step": 1, "split": "train", "loss": float("nan"), "lr": np.float64(1e-300), "ece": float("inf")})
    (row,) = read_metrics(tmp_path / "metrics.csv")
    assert math.isnan(row["loss"]) and row["lr"] == 1e-300 and row["ece"] == float("inf")
    with pytest.raises(ValueError, match="split"):
        tracker.log({"step": 2, "loss": 0.5})


def test_header_is_written_once(tmp_path):
    log_rows(tmp_path, 1, []).close()
    log_rows(tmp_path, 1, []).close()
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert len(lines) == 5 and sum(line == lines[0] for line in lines) == 1


def test_truncate_cuts_later_rows_and_appending_goes_on(tmp_path):
    tracker = log_rows(tmp_path, 6, [])
    before = (tmp_path / "metrics.csv").read_text().splitlines()
    tracker.truncate(4, 4)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == before[:9]
    tracker.log(train_row(5))
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.csv")] == [1, 1, 2, 2, 3, 3, 4, 4, 5]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv"]


def test_an_evaluation_after_the_checkpoint_of_its_step_is_cut_with_what_follows(tmp_path):
    """A run that was stopped where an evaluation was due saves first, and evaluates when it goes on."""
    tracker = log_rows(tmp_path, 6, [])
    tracker.truncate(4, 3)
    rows = [(row["step"], row["split"]) for row in read_metrics(tmp_path / "metrics.csv")]
    assert rows[-2:] == [(3, "val"), (4, "train")]


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_torn_last_line_is_dropped(tmp_path, cut):
    log_rows(tmp_path, 3, []).close()
    path = tmp_path / "metrics.csv"
    path.write_bytes(path.read_bytes()[:-cut])
    assert len(read_metrics(path)) == 5
    tracker = Tracker(tmp_path, [])
    tracker.log(val_row(3))
    assert [row["step"] for row in read_metrics(path)] == [1, 1, 2, 2, 3, 3]
    path.write_bytes(path.read_bytes()[:-cut])
    tracker.truncate(3, 3)
    assert path.read_bytes().endswith(b"\n") and len(read_metrics(path)) == 5


@pytest.mark.parametrize("content", [b"", b"time,step,ep"])
def test_kill_before_the_header_was_whole(tmp_path, content):
    (tmp_path / "metrics.csv").write_bytes(content)
    log_rows(tmp_path, 1, []).close()
    assert len(read_metrics(tmp_path / "metrics.csv")) == 2


def test_kill_loses_no_row(tmp_path):
    script = (
        "import sys; from distcls.runs.tracking.trackers import Tracker\n"
        "tracker = Tracker(sys.argv[1], [])\n"
        "for step in range(10**9):\n"
        "    tracker.log({'step': step, 'split': 'train', 'loss': 1 / 3}); print(step, flush=True)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.2)
        os.kill(process.pid, signal.SIGKILL)
        reported = 1 + len(process.stdout.read().splitlines())
    rows = read_metrics(tmp_path / "metrics.csv")
    assert len(rows) >= reported > 1
    assert [row["step"] for row in rows] == list(range(len(rows)))


def test_other_files_are_refused_not_overwritten(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n1,0.5\n")
    with pytest.raises(UsageError, match="step,loss"):
        Tracker(tmp_path, [])
    assert path.read_text() == "step,loss\n1,0.5\n"
    with pytest.raises(MissingInputError, match="nowhere"):
        read_metrics(tmp_path / "nowhere" / "metrics.csv")


OLD_HEADER = "time,step,epoch,split,loss,accuracy,top5,macro_f1,ece,lr,grad_norm,images_per_second,data_time"
OLD_ROW = "2026-01-01T00:00:00.000+00:00,5,0.5,train,1.25,0.5,,,,0.01,0.7,1000.0,0.02"


@pytest.mark.parametrize(
    ("header", "row", "extra"),
    [
        (OLD_HEADER, OLD_ROW, {}),
        ("step,split,time,loss,data_time", "5,train,2026-01-01T00:00:00+00:00,1.25,0.02", {}),
        (f"{OLD_HEADER},of_tomorrow,words", f"{OLD_ROW},7.5,some", {"of_tomorrow": 7.5, "words": "some"}),
    ],
)
def test_a_file_of_another_version_is_read_and_continued(tmp_path, header, row, extra):
    """Its columns stay; those that are written for the first time come after them, all rows whole."""
    path = tmp_path / "metrics.csv"
    path.write_text(f"{header}\n{row}\n")
    tracker = Tracker(tmp_path, [])
    tracker.truncate(5, 0)
    assert path.read_text() == f"{header}\n{row}\n", "nothing to add yet"
    tracker.log({"step": 6, "split": "train", "loss": 0.5})
    assert path.read_text().splitlines()[0] == header, "still nothing to add"
    tracker.log({"step": 6, "split": "val", "loss": 0.25, "train_loss": 1 / 3, "made_up": 2})
    tracker.log({"step": 7, "split": "train", "loss": 0.125})
    lines = path.read_text().splitlines()
    assert lines[0] == f"{header},train_loss,made_up" and lines[1] == f"{row},,"
    rows = read_metrics(path)
    assert [(r["step"], r["loss"]) for r in rows] == [(5, 1.25), (6, 0.5), (6, 0.25), (7, 0.125)]
    assert rows[0]["data_time"] == 0.02 and {name: rows[0][name] for name in extra} == extra
    assert [r["train_loss"] for r in rows] == [None, None, 1 / 3, None] and rows[2]["made_up"] == 2.0
    assert set(rows[0]) >= set(COLUMNS)
    assert [r["step"] for r in Tracker(tmp_path, []).metrics.truncate(6, 6)] == [5, 6, 6]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["metrics.csv"]


def test_a_row_that_is_not_whole_is_named(tmp_path):
    path = tmp_path / "metrics.csv"
    for row in (OLD_ROW.replace("1.25", "one"), OLD_ROW + ",1", OLD_ROW.replace(",5,", ",,")):
        path.write_text(f"{OLD_HEADER}\n{OLD_ROW}\n{row}\n")
        with pytest.raises(DiskError, match="line 3 is damaged"):
            read_metrics(path)
