"""Prints what `distcls eval` found, and writes it to files: metrics as JSON, predictions as CSV or Parquet."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distcls.config.metrics import METRICS
from distcls.files.atomic import naming_disk_errors, printable, replacing, write_json
from distcls.inference.evaluation import Calibration, Evaluation
from distcls.inference.metrics import worst_confusions
from distcls.runs.results import Predictions
from distcls.terminal.progress import Progress

CALIBRATED = ("nll", "ece", "brier")
"""The metrics that a temperature changes."""


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the metrics of one split with their intervals, a table of its classes, and the worst confusions."""
    confusions = worst_confusions(evaluation.metrics.confusion, evaluation.class_names)
    Progress().measurement(evaluation.split, evaluation.summary(), confusions)


def print_calibration(calibration: Calibration) -> None:
    """Print the temperature, and what it changes on the split it was fitted on."""
    split = calibration.split
    print(f"temperature {calibration.temperature:.4f}, fitted on {split} and stored beside the weights")
    print(f"{split:<26}{'before':>10}{'after':>10}")
    for name in CALIBRATED:
        metric = METRICS[name]
        before, after = metric.text(calibration.before[name]), metric.text(calibration.after[name])
        print(f"{metric.title:<26}{before:>10}{after:>10}")
    print()


def write_metrics(path: Path, evaluation: Evaluation, calibration: Calibration | None = None) -> None:
    """Write all metrics of one split as JSON. Rows of the confusion matrix are the true classes. Raises DiskError."""
    values = {
        **evaluation.summary(),
        "class_names": evaluation.class_names,
        "confusion": evaluation.metrics.confusion.tolist(),
    }
    if calibration is not None:
        values["calibration"] = vars(calibration)
    with naming_disk_errors(path):
        write_json(path, values)


def write_csv(path: Path, evaluation: Evaluation) -> None:
    """Write a CSV file with a row for each image: image, label, prediction, confidence, and each class's probability.

    The columns of the classes are called p_CLASS; a probability that was not kept is empty. Raises DiskError.
    """
    with (
        naming_disk_errors(path),
        path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(_columns(evaluation.class_names))
        for row in _rows(evaluation.predictions, evaluation.class_names):
            writer.writerow(
                ["" if value is None else f"{value:.9g}" if isinstance(value, float) else value for value in row]
            )


def write_parquet(path: Path, evaluation: Evaluation) -> None:
    """Write the table of `write_csv` as Parquet, atomically. It holds UTF-8 only: other bytes of names become "?".

    Raises DiskError.
    """
    import pyarrow
    import pyarrow.parquet

    names = [printable(name) for name in _columns(evaluation.class_names)]
    rows = _rows(evaluation.predictions, evaluation.class_names)
    columns = zip(*([printable(x) if isinstance(x, str) else x for x in row] for row in rows), strict=True)
    with naming_disk_errors(path), replacing(path) as file:
        pyarrow.parquet.write_table(pyarrow.table(list(map(pyarrow.array, columns)), names=names), file)


def _columns(class_names: Sequence[str]) -> list[str]:
    return ["image", "label", "prediction", "confidence", *(f"p_{name}" for name in class_names)]


def _rows(found: Predictions, class_names: Sequence[str]) -> Iterator[list[Any]]:
    for i, name in enumerate(found.names.tolist()):
        probs: list[float | None] = [None] * len(class_names)
        classes = range(len(class_names)) if found.classes is None else found.classes[i]
        for c, prob in zip(classes, found.probs[i].tolist(), strict=True):
            probs[c] = prob
        label, pred = class_names[found.labels[i]], class_names[found.preds[i]]
        yield [name, label, pred, float(found.confidence[i]), *probs]
