"""What a finished run found, kept in its folder: predictions of each split, and pictures worth looking at."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distcls.errors import MissingInputError
from distcls.files.atomic import replacing


@dataclass
class Predictions:
    """What the kept weights said of a split of n images and C classes."""

    labels: np.ndarray
    """int64 (n,), the true class of each image."""
    preds: np.ndarray
    """int64 (n,), the predicted one."""
    confidence: np.ndarray
    """float64 (n,), the probability of that class."""
    confusion: np.ndarray
    """int64 (C, C), rows are the true classes."""
    bin_confidence: np.ndarray
    """float64 (bins,), by confidence: the sum of the confidences."""
    bin_correct: np.ndarray
    bin_count: np.ndarray
    """int64 (bins,), how many were right, and how many there are."""


@dataclass
class Pictures:
    """Images with their names, and where they stand in their split."""

    pixels: np.ndarray
    """uint8 (n, H, W, 3)."""
    names: list[str]
    places: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """int64 (n,), positions in the split; empty where that means nothing."""


def save_predictions(run_dir: Path, split: str, predictions: Predictions) -> None:
    """Keep them as predictions/SPLIT.npz."""
    _save(run_dir / "predictions" / f"{split}.npz", asdict(predictions))


def load_predictions(run_dir: Path, split: str) -> Predictions | None:
    """Those of a split; None where it was not measured."""
    path = run_dir / "predictions" / f"{split}.npz"
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        return Predictions(**arrays)


def save_pictures(run_dir: Path, pictures: dict[str, Pictures]) -> None:
    """Keep them as pictures/NAME.npz."""
    for name, some in pictures.items():
        names = np.array([name.encode("utf-8", "surrogateescape") for name in some.names])
        _save(run_dir / "pictures" / f"{name}.npz", {"pixels": some.pixels, "names": names, "places": some.places})


def load_pictures(run_dir: Path, name: str) -> Pictures:
    """The pictures of that name. Raises MissingInputError where there are none."""
    path = run_dir / "pictures" / f"{name}.npz"
    if not path.exists():
        raise MissingInputError(f"{run_dir} has no {path.name}: give the folder of a finished run.")
    with np.load(path, allow_pickle=False) as arrays:
        names = [bytes(name).decode("utf-8", "surrogateescape") for name in arrays["names"]]
        return Pictures(arrays["pixels"], names, arrays["places"])


def _save(path: Path, arrays: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    with replacing(path, durable=False) as file:
        np.savez_compressed(file, **arrays)
