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


def finish(run_dir: Path, with_plots: bool = True) -> None:
    """Write what a run leaves at its end."""
    metrics = MetricsFile(run_dir / "metrics.csv")
    metrics.append({"step": 9, "split": "test", "loss": 0.5, "accuracy": 0.75})
    write_json(run_dir / "metrics.json", {})
    (run_dir / "model").mkdir()
    (run_dir / "model" / "model.safetensors").write_bytes(b"")
    write_json(run_dir / "status.json", {"state": "finished"})
    if with_plots:
        draw(run_dir)


def draw(run_dir: Path) -> None:
    (run_dir / "plots").mkdir()
    (run_dir / "plots" / "curves.png").write_bytes(b"")
