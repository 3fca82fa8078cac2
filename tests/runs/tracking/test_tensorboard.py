"""TensorBoard always says what metrics.csv says."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from distcls.runs.tracking.metrics_file import COLUMNS, read_metrics
from distcls.runs.tracking.trackers import Tracker


def log_rows(run_dir: Path, steps: int) -> Tracker:
    tracker = Tracker(run_dir, ["tensorboard"])
    for step in range(1, steps + 1):
        of_step = {"step": step, "epoch": step / 7}
        tracker.log({**of_step, "split": "train", "loss": 1 / (step + 3), "lr": 0.1 + 0.2})
        tracker.log({**of_step, "split": "val", "loss": 2 / 3, "accuracy": 1 - 1 / (step + 2), "train_loss": 0.7})
    return tracker


def tensorboard_scalars(run_dir: Path) -> set[tuple[str, int, float, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "tb"), size_guidance={"scalars": 0})
    events.Reload()
    return {
        (tag, event.step, event.value, event.wall_time)
        for tag in events.Tags()["scalars"]
        for event in events.Scalars(tag)
    }


def expected_scalars(run_dir: Path) -> set[tuple[str, int, float, float]]:
    import numpy as np

    scalars = set()
    for row in read_metrics(run_dir / "metrics.csv"):
        seconds = datetime.fromisoformat(row["time"]).timestamp()
        tags = {name: f"{name}/{row['split']}" for name in COLUMNS[4:]}
        tags |= {"epoch": "epoch", "lr": "lr", "train_loss": "loss/train_mean"}
        for name, tag in tags.items():
            if row[name] is not None:
                scalars.add((tag, row["step"], float(np.float32(row[name])), seconds))
    return scalars


def test_tensorboard_equals_metrics_csv(tmp_path):
    tracker = log_rows(tmp_path, 6)
    assert tensorboard_scalars(tmp_path) == expected_scalars(tmp_path)
    tracker.truncate(4, 4)
    assert tensorboard_scalars(tmp_path) == expected_scalars(tmp_path)
    tracker.log({"step": 5, "split": "val", "loss": 0.5})
    tracker.close()
    scalars = tensorboard_scalars(tmp_path)
    assert scalars == expected_scalars(tmp_path)
    assert {tag for tag, *_ in scalars} == {"loss/train", "loss/val", "loss/train_mean", "accuracy/val", "lr", "epoch"}
    assert max(step for _, step, *_ in scalars) == 5
