"""The plots of a finished run, from its folder alone, so that they can be made again at any time."""

from __future__ import annotations

import json
from pathlib import Path

from distcls.report.calibration import plot_calibration
from distcls.report.confusion import plot_confusion
from distcls.report.curves import plot_curves
from distcls.report.pictures import plot_images, prediction_title
from distcls.runs.results import Predictions, load_pictures, load_predictions
from distcls.runs.tracking.metrics_file import read_metrics


def write_report(run_dir: Path) -> None:
    """plots/: curves, training images, and of test (or val) confusion, calibration, predictions and mistakes."""
    folder = run_dir / "plots"
    folder.mkdir(exist_ok=True)
    kept_step = json.loads((run_dir / "kept.json").read_text())["step"]
    plot_curves(read_metrics(run_dir / "metrics.csv"), folder / "curves.png", kept_step)
    batch = load_pictures(run_dir, "train_batch")
    plot_images(batch.pixels, batch.names, folder / "train_batch.png", "Training images, as the model saw them")
    class_names = json.loads((run_dir / "classes.json").read_text())
    metrics = json.loads((run_dir / "metrics.json").read_text())
    for split in ("test", "val"):
        found = load_predictions(run_dir, split)
        if found is not None:
            _draw_split(run_dir, split, found, metrics[split]["ece"], class_names)
            return


def _draw_split(run_dir: Path, split: str, found: Predictions, ece: float, class_names: list[str]) -> None:
    folder = run_dir / "plots"
    plot_confusion(found.confusion, class_names, split, folder / "confusion_matrix.png")
    bins = found.bin_confidence, found.bin_correct, found.bin_count
    plot_calibration(*bins, ece, split, folder / "calibration.png")
    for name, heading in (
        ("predictions", f"Predictions on the {split} split"),
        ("worst_mistakes", f"The most confident mistakes on the {split} split"),
    ):
        if (run_dir / "pictures" / f"{name}.npz").exists():
            _draw_predictions(run_dir, name, heading, found, class_names)


def _draw_predictions(run_dir: Path, name: str, heading: str, found: Predictions, class_names: list[str]) -> None:
    pictures = load_pictures(run_dir, name)
    right = [bool(found.preds[i] == found.labels[i]) for i in pictures.places]
    titles = [
        prediction_title(class_names[found.preds[i]], float(found.confidence[i]), class_names[found.labels[i]], image)
        for i, image in zip(pictures.places, pictures.names, strict=True)
    ]
    colors = ["green" if ok else "red" for ok in right]
    plot_images(pictures.pixels, titles, run_dir / "plots" / f"{name}.png", heading, colors)
