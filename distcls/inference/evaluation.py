"""`distcls eval`: a run's kept weights on one of its splits, or on images that came later."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from distcls.cluster.processes import Processes
from distcls.data.build import build_data
from distcls.data.split import Split
from distcls.errors import MissingInputError, UsageError
from distcls.files.atomic import json_text, write_text
from distcls.inference.classifier import load_kept_model
from distcls.inference.evaluator import Evaluator
from distcls.inference.identity import aligned, choose_split, is_same_place
from distcls.inference.metrics import SplitMetrics, worst_confusions
from distcls.runs.status import state_of
from distcls.terminal.progress import Progress

UNCUT = ["data.val_fraction=0", "data.test_fraction=0", "data.folds=null", "data.fold=null"]
"""Settings with which all images of a folder are one split."""


def evaluate_run(
    run_dir: Path,
    split_name: str,
    overrides: Sequence[str] = (),
    json_file: Path | None = None,
    csv_file: Path | None = None,
) -> SplitMetrics:
    """The metrics of a run's kept weights on one of its splits, or on all of other images, printed.

    It changes nothing in the run folder. Raises UsageError where the split is not the one that the run set aside.
    """
    kept = load_kept_model(run_dir, [*overrides, *(UNCUT if split_name == "all" else [])])
    if split_name == "all" and is_same_place(kept.config.data, run_dir):
        raise UsageError(
            f"--split all is for images that the run was not trained on, and {kept.config.data.root or 'this'} is what "
            "it was trained on: give others with --data DIR, or --split test, val or train"
        )
    if split_name != "all" and not (run_dir / "splits.json").exists():
        raise MissingInputError(
            f"{run_dir} does not say which images are in its {split_name} split: give the run folder around it; or "
            "other images, with --data DIR --split all"
        )
    with Processes(kept.config.run.device) as processes:
        kept.to(processes.device)
        data = build_data(kept.data_config(), processes, least_classes=1)
        split = aligned(choose_split(data, split_name, run_dir), data.class_names, kept.class_names)
        evaluate = Evaluator(kept.config, len(kept.class_names), kept.normalize, processes)
        metrics = evaluate(kept.module, split)
        if metrics is None:
            raise KeyboardInterrupt
        if processes.is_main:
            state = state_of(run_dir)
            if state not in ("finished", None):
                print(
                    f"warning: {run_dir} is {state}, not finished: these are its best weights so far", file=sys.stderr
                )
            print_metrics(split_name, metrics, kept.class_names)
            if json_file is not None:
                write_metrics(json_file, metrics, kept.class_names)
            if csv_file is not None:
                write_predictions(csv_file, metrics, split, kept.class_names)
    return metrics


def print_metrics(split: str, metrics: SplitMetrics, class_names: list[str]) -> None:
    """The result of `distcls eval` on the terminal."""
    Progress().finish({split: metrics.values}, worst_confusions(metrics.confusion, class_names), "")


def write_metrics(path: Path, metrics: SplitMetrics, class_names: list[str]) -> None:
    """All numbers of one split, as JSON. Rows of the confusion matrix are the true classes."""
    values = {**metrics.values, "class_names": class_names, "confusion": metrics.confusion.tolist()}
    write_text(path, json_text(values))


def write_predictions(path: Path, metrics: SplitMetrics, split: Split, class_names: list[str]) -> None:
    """A row for each image of the split: image, label, prediction, confidence."""
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "prediction", "confidence"])
        for i, (pred, confidence) in enumerate(zip(metrics.preds, metrics.confidence, strict=True)):
            writer.writerow([split.image_name(i), class_names[split.labels[i]], class_names[pred], f"{confidence:.6f}"])
