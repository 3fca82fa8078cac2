"""Run folders with rows and checkpoints but no run, for tests of what is sent to services."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from distcls.config.settings import Config
from distcls.config.yaml_text import to_yaml
from distcls.files.atomic import write_json
from distcls.runs.tracking.metrics_file import MetricsFile


def make_run(run_dir: Path) -> Path:
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text(to_yaml(Config()))
    return run_dir


def append_rows(run_dir: Path, steps: Iterable[int], checkpoint: int) -> None:
    """Write a row for each training step, and a checkpoint."""
    metrics = MetricsFile(run_dir / "metrics.csv")
    for step in steps:
        metrics.append({"step": step, "split": "train", "loss": 1 / step})
    folder = run_dir / "checkpoints" / f"step-{checkpoint:08d}"
    folder.mkdir(parents=True)
    write_json(folder / "state.json", {"evaluated_step": 0})
