"""Collects what runs predicted for images that they were not trained on.

Each fold of a cross-validation has predicted its own val images, so all folds together have predicted every image. A
single run has predicted only its val and test images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distcls.config.loading import read_config
from distcls.errors import DiskError, MissingInputError, UsageError
from distcls.runs.class_names import read_class_names
from distcls.runs.results import UNREADABLE, Predictions, load_predictions
from distcls.runs.status import state_of


@dataclass
class OutOfFold:
    """Out-of-sample predictions for n images and C classes."""

    class_names: list[str]
    names: list[str]
    """The name of each image, as in splits.json. An image that is listed with two labels is here twice."""
    labels: np.ndarray
    """int64 (n,), the labels that the images were given."""
    places: list[str]
    """Where each image was when it was predicted: "val", "test", or "fold 2"."""
    probs: np.ndarray
    """float32 (n, C), the mean over the runs that predicted the image."""

    def __len__(self) -> int:
        return len(self.names)


def load_out_of_fold(run_dirs: Sequence[Path]) -> OutOfFold:
    """Return the predictions of all these runs for their val and test images.

    Raises MissingInputError if a run has not finished, UsageError if the runs have different classes, and DiskError if
    a file is damaged.
    """
    class_names = read_class_names(run_dirs[0])
    index: dict[tuple[str, int], int] = {}
    places: list[str] = []
    parts = []
    for run_dir in run_dirs:
        if (names := read_class_names(run_dir)) != class_names:
            raise UsageError(
                f"{run_dir} has {len(names)} classes that are not the {len(class_names)} of {run_dirs[0]}: audit runs "
                "of the same images together, such as the folds of one crossval"
            )
        for place, predictions in _predictions(run_dir):
            keys = zip(predictions.names.tolist(), predictions.labels.tolist(), strict=True)
            rows = np.array([index.setdefault(key, len(index)) for key in keys], np.int64)
            places += [place] * (len(index) - len(places))
            parts.append((rows, predictions))
    probs, times = np.zeros((len(index), len(class_names)), np.float32), np.zeros(len(index), np.int64)
    for rows, predictions in parts:
        np.add.at(probs, rows, _dense(predictions, len(class_names)))
        np.add.at(times, rows, 1)
    probs /= times[:, None]
    labels = np.array([label for _, label in index], np.int64)
    return OutOfFold(class_names, [name for name, _ in index], labels, places, probs)


def _predictions(run_dir: Path) -> Iterator[tuple[str, Predictions]]:
    """Yield the place and the predictions of a run's val and test images."""
    fold = read_config(run_dir / "config.yaml").data.fold
    found = False
    for split in ("val", "test"):
        try:
            predictions = load_predictions(run_dir, split)
        except (OSError, *UNREADABLE) as error:
            raise DiskError(f"{run_dir}/predictions/{split}.npz is damaged ({error}): train the run again") from error
        if predictions is not None:
            found = True
            yield split if fold is None or split == "test" else f"fold {fold}", predictions
    if not found:
        raise MissingInputError(
            f"{run_dir} has no predictions to audit: it is {state_of(run_dir) or 'of unknown state'}. Let it finish by "
            "running its command again; it needs a val or a test split"
        )


def _dense(predictions: Predictions, num_classes: int) -> np.ndarray:
    """Return probabilities float32 (n, C). If only the largest were kept, the others share what is left evenly."""
    if predictions.classes is None:
        return predictions.probs.astype(np.float32)
    kept = predictions.probs.astype(np.float32)
    rest = np.maximum(1 - kept.sum(1), 0) / max(num_classes - kept.shape[1], 1)
    probs = np.repeat(rest[:, None], num_classes, 1)
    np.put_along_axis(probs, predictions.classes.astype(np.int64), kept, 1)
    return probs
