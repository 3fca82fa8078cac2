"""Only rows that a checkpoint covers are final, and their list grows at its end alone."""

from __future__ import annotations

from pathlib import Path

from distcls.files.atomic import write_json
from distcls.runs.tracking import rows
from distcls.runs.tracking.metrics_file import MetricsFile
from distcls.runs.tracking.rows import covered_rows, numbers_of


def write_checkpoint(run_dir: Path, step: int, evaluated_step: int) -> None:
    folder = run_dir / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    write_json(folder / "state.json", {"evaluated_step": evaluated_step})


def places(run_dir: Path) -> list[tuple[str, int]]:
    return [(row["split"], row["step"]) for row in covered_rows(run_dir)]


def test_rows_are_final_once_a_checkpoint_covers_them(tmp_path):
    assert covered_rows(tmp_path) == []
    metrics = MetricsFile(tmp_path / "metrics.csv")
    for step in (2, 4, 6):
        metrics.append({"step": step, "split": "train", "loss": 1.0})
    assert places(tmp_path) == []
    write_checkpoint(tmp_path, 4, evaluated_step=0)
    assert places(tmp_path) == [("train", 2), ("train", 4)]
    metrics.append({"step": 4, "split": "val", "loss": 2.0})
    assert places(tmp_path) == [("train", 2), ("train", 4)], "this evaluation is repeated after a kill"
    metrics.truncate(4, 0)
    before = places(tmp_path)
    metrics.append({"step": 4, "split": "val", "loss": 2.0})
    metrics.append({"step": 6, "split": "train", "loss": 1.0})
    write_checkpoint(tmp_path, 6, evaluated_step=4)
    assert places(tmp_path) == [*before, ("val", 4), ("train", 6)]


def test_the_test_split_is_final_when_the_run_is(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.csv")
    metrics.append({"step": 6, "split": "test", "loss": 1.0, "accuracy": 0.5})
    write_checkpoint(tmp_path, 6, evaluated_step=6)
    assert rows.test_row(tmp_path) is None and covered_rows(tmp_path) == []
    write_json(tmp_path / "status.json", {"state": "finished"})
    row = rows.test_row(tmp_path)
    assert row is not None and numbers_of(row) == {"loss/test": 1.0, "accuracy/test": 0.5}
    assert covered_rows(tmp_path) == [], "a run that is made longer measures it again"


def test_a_finished_run_without_checkpoints_is_final(tmp_path):
    """Somebody made room."""
    metrics = MetricsFile(tmp_path / "metrics.csv")
    metrics.append({"step": 2, "split": "train", "loss": 1.0})
    metrics.append({"step": 2, "split": "test", "loss": 1.0})
    assert covered_rows(tmp_path) == []
    write_json(tmp_path / "status.json", {"state": "finished"})
    assert places(tmp_path) == [("train", 2)]


def test_a_number_is_called_by_its_split_unless_it_has_none():
    row = {
        "time": "t",
        "step": 3,
        "split": "train",
        "loss": 0.5,
        "lr": 0.1,
        "train_loss": 0.6,
        "epoch": 1.0,
        "ece": None,
    }
    assert numbers_of(row) == {"loss/train": 0.5, "lr": 0.1, "loss/train_mean": 0.6, "epoch": 1.0}
