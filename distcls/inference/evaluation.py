"""`distcls eval`: evaluates a run's best weights on one of its splits, or on other images."""

from __future__ import annotations

import csv
import dataclasses
import sys
from pathlib import Path

from distcls.cluster.processes import Processes
from distcls.config.settings import Config
from distcls.data.build import build_data
from distcls.data.split import Split
from distcls.errors import MissingInputError, UsageError
from distcls.files.atomic import write_json
from distcls.inference.classifier import load_classifier
from distcls.inference.evaluator import Evaluator
from distcls.inference.identity import aligned, choose_split, is_same_place
from distcls.inference.metrics import SplitMetrics, worst_confusions
from distcls.runs.status import state_of
from distcls.terminal.progress import Progress


def evaluate_run(
    run_dir: Path,
    config: Config,
    split_name: str,
    json_file: Path | None = None,
    csv_file: Path | None = None,
) -> SplitMetrics:
    """Print and return the metrics of a run's best weights on one of its splits, or on all of a set of other images.

    config: the run's, with the overrides of this evaluation (runs/opening.py). Changes nothing in the run folder.
    Raises UsageError if the split is not the one that the run set aside.
    """
    if split_name == "all" and is_same_place(config.data, run_dir):
        raise UsageError(
            f"--split all is for images that the run was not trained on, but it was trained on "
            f"{config.data.root or 'these'}: give other images with --data DIR, or use --split test, val or train"
        )
    if split_name != "all" and not (run_dir / "splits.json").exists():
        raise MissingInputError(
            f"{run_dir} does not say which images are in its {split_name} split: give the folder of the whole run, "
            "or other images with --data DIR --split all"
        )
    classifier = load_classifier(run_dir, config)
    with Processes(config.run.device) as processes:
        classifier.to(processes.device)
        seen = classifier.decoding  # includes a size that training took from its images
        data_config = dataclasses.replace(config.data, image_size=seen.image_size, resize=seen.resize)
        data = build_data(data_config, processes, least_classes=1)
        split = aligned(choose_split(data, split_name, run_dir), data.class_names, classifier.class_names)
        metrics = Evaluator(config, processes)(classifier, split)
        if metrics is None:
            raise KeyboardInterrupt
        if processes.is_main:
            state = state_of(run_dir)
            if state not in ("finished", None):
                print(
                    f"warning: {run_dir} is {state}, not finished: these are its best weights so far", file=sys.stderr
                )
            print_metrics(split_name, metrics, classifier.class_names)
            if json_file is not None:
                write_metrics(json_file, metrics, classifier.class_names)
            if csv_file is not None:
                write_predictions(csv_file, metrics, split, classifier.class_names)
    return metrics


def print_metrics(split: str, metrics: SplitMetrics, class_names: list[str]) -> None:
    """Print the metrics of one split, as `distcls eval` does."""
    Progress().measurement(split, metrics.summary(class_names), worst_confusions(metrics.confusion, class_names))


def write_metrics(path: Path, metrics: SplitMetrics, class_names: list[str]) -> None:
    """Write all metrics of one split as JSON. Rows of the confusion matrix are the true classes."""
    values = {**metrics.summary(class_names), "class_names": class_names, "confusion": metrics.confusion.tolist()}
    write_json(path, values)


def write_predictions(path: Path, metrics: SplitMetrics, split: Split, class_names: list[str]) -> None:
    """Write a CSV file with a row for each image of the split: image, label, prediction, confidence."""
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "prediction", "confidence"])
        for i, (pred, confidence) in enumerate(zip(metrics.preds, metrics.confidence, strict=True)):
            writer.writerow([split.image_name(i), class_names[split.labels[i]], class_names[pred], f"{confidence:.6f}"])
