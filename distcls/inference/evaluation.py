"""`distcls eval`: evaluates the best weights of a run, or an ensemble of several, on a split or on other images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distcls.cluster.processes import Processes
from distcls.config.settings import Config
from distcls.data.build import build_data
from distcls.data.split import Data, Split
from distcls.errors import MissingInputError, UsageError
from distcls.inference.calibration import HIGHEST, LOWEST, fit_temperature
from distcls.inference.classifier import Classifier, load_classifier, store_temperature
from distcls.inference.ensemble import Member
from distcls.inference.evaluator import Evaluator
from distcls.inference.identity import aligned, choose_split, is_same_place
from distcls.inference.intervals import summarize
from distcls.inference.metrics import SplitMetrics
from distcls.inference.probabilities import Probabilities
from distcls.runs.results import Predictions

MOST_TO_FIT = 2 * 2**30
"""Bytes of probabilities that a temperature is fitted from: ImageNet's validation images are a tenth of it."""


class OpenedRun(NamedTuple):
    """A run to evaluate: its folder, its config with the overrides of this evaluation, and its classifier."""

    dir: Path
    config: Config
    classifier: Classifier


@dataclass(frozen=True)
class Evaluation:
    """The result for one split."""

    split: str
    class_names: list[str]
    metrics: SplitMetrics
    predictions: Predictions
    """With the probabilities on the main process only."""
    groups: np.ndarray | None = None
    """int64 (n,), the images' groups (Split.groups)."""

    def summary(self) -> dict[str, Any]:
        """Return the split's entry in metrics.json."""
        return summarize(self.metrics, self.class_names, self.groups)


def open_run(run_dir: Path, config: Config, split: str) -> OpenedRun:
    """Load a run's classifier. Raises UsageError or MissingInputError if the run cannot be evaluated on this split."""
    if split == "all" and is_same_place(config.data, run_dir):
        raise UsageError(
            f"--split all is for images that the run was not trained on, but it was trained on "
            f"{config.data.root or 'these'}: give other images with --data DIR, or use --split test, val or train"
        )
    if split != "all" and not (run_dir / "splits.json").exists():
        raise MissingInputError(
            f"{run_dir} does not say which images are in its {split} split: give the folder of the whole run, "
            "or other images with --data DIR --split all"
        )
    return OpenedRun(run_dir, config, load_classifier(run_dir, config))


def evaluate(
    runs: Sequence[OpenedRun], split: str, processes: Processes, largest_float32: int | None = None
) -> Evaluation:
    """Return the metrics of a run's best weights, or of several runs' mean probabilities, on a split.

    All processes call it. Changes nothing in the run folders. Raises UsageError if the split is not the one that each
    of the runs set aside, or if they do not have the same classes.
    """
    built: list[tuple[Any, Data]] = []
    members = [_member(run, runs[0], split, processes, built) for run in runs]
    classifier, images = members[0]
    class_names = classifier.class_names
    evaluator = Evaluator(runs[0].config, processes)
    keep = Probabilities(len(images), len(class_names), evaluator.batch_size, processes, largest_float32)
    metrics = evaluator(classifier, images, keep, members[1:])
    if metrics is None:
        raise KeyboardInterrupt
    return Evaluation(split, class_names, metrics, keep.predictions(images, metrics), images.groups)


def _member(run: OpenedRun, first: OpenedRun, name: str, processes: Processes, built: list[tuple[Any, Data]]) -> Member:
    """Return a run's classifier with the images as it sees them.

    built: the data of earlier runs, which is used again where it is the same.
    """
    classifier = run.classifier
    classifier.to(processes.device)
    if classifier.class_names != first.classifier.class_names:
        raise UsageError(
            f"{run.dir} and {first.dir} do not have the same classes in the same order, so their probabilities cannot "
            "be averaged: evaluate them one by one."
        )
    seen = classifier.decoding  # includes a size that training took from its images
    config = dataclasses.replace(run.config.data, image_size=seen.image_size, resize=seen.resize)
    data = next((data for other, data in built if other == config), None)
    if data is None:
        data = build_data(config, processes, least_classes=1)
        built.append((config, data))
    split = aligned(choose_split(data, name, run.dir), data.class_names, classifier.class_names)
    if data is not built[0][1]:
        _refuse_other_images(split, run.dir, built[0][1], name, first.dir)
    return Member(classifier, split)


def _refuse_other_images(split: Split, run_dir: Path, first_data: Data, name: str, first_dir: Path) -> None:
    """Raise UsageError unless the split has the images of the first run's."""
    first = first_data.train if name == "all" else next(one for one in first_data.splits() if one.name == name)
    same = len(first) == len(split) and all(first.image_name(i) == split.image_name(i) for i in range(len(split)))
    if not same:
        raise UsageError(
            f"{run_dir} and {first_dir} have different images in their {name} splits, so some may have been used to "
            "train the other run: evaluate the runs together on a split that all of them set aside, or on other "
            "images with --data DIR --split all."
        )


@dataclass(frozen=True)
class Calibration:
    """A temperature that was fitted, and the metrics of the split it was fitted on before and after."""

    temperature: float
    split: str
    before: dict[str, Any]
    after: dict[str, Any]


def calibrate(run: OpenedRun, processes: Processes) -> Calibration:
    """Fit the temperature of a run on its val split, store it beside the weights, and apply it to the classifier.

    All processes call it; the main one fits and stores. Raises UsageError if there are too many classes to keep all
    probabilities, and MissingInputError if the run has not finished or has no val split.
    """
    run.classifier.temperature.fill_(1)
    uncalibrated = evaluate([run], "val", processes, MOST_TO_FIT)
    temperature = processes.from_main(lambda: _fitted(uncalibrated, run.dir))
    run.classifier.temperature.fill_(temperature)
    calibrated = evaluate([run], "val", processes)
    return Calibration(temperature, "val", uncalibrated.metrics.values, calibrated.metrics.values)


def _fitted(evaluation: Evaluation, run_dir: Path) -> float:
    predictions = evaluation.predictions
    if predictions.probs.dtype != np.float32:  # small ones would be rounded to 0
        raise UsageError(
            f"{len(evaluation.class_names):,} classes and {len(predictions.labels):,} images have too many "
            "probabilities to keep, so no temperature can be fitted."
        )
    temperature = fit_temperature(predictions.probs, predictions.labels)
    if not 1.01 * LOWEST < temperature < HIGHEST / 1.01:
        right = int((predictions.preds == predictions.labels).sum())
        raise UsageError(
            f"the val split says nothing about how sure the model should be: {right:,} of its "
            f"{len(predictions.labels):,} predictions are right, and a temperature needs both right and wrong ones. "
            "Nothing was stored."
        )
    store_temperature(run_dir, temperature)
    return temperature
