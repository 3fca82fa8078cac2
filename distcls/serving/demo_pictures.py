"""Collects the pictures of the demo page from a run folder: its worst mistakes, and images to try."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distcls.config.settings import Config
from distcls.errors import MissingInputError
from distcls.export.own_images import find_images
from distcls.inference.classifier import Classifier
from distcls.runs.results import Pictures, Predictions, load_pictures, load_predictions

NUM_EXAMPLES = 8


@dataclass(frozen=True)
class Mistake:
    """An image that the run put in the wrong class."""

    pixels: np.ndarray
    """uint8 (H, W, 3)."""
    heat: np.ndarray | None
    """The image with its Grad-CAM; None if the run has not kept it."""
    name: str
    predicted: str
    true: str
    confidence: float


@dataclass(frozen=True)
class DemoPictures:
    """Pictures of a run that the page shows before anybody gives it an image."""

    mistakes: list[Mistake]
    """The one that the run was surest of comes first."""
    examples: list[np.ndarray]
    """uint8 (H, W, 3) each."""
    examples_title: str


def collect(run_dir: Path, config: Config, classifier: Classifier) -> DemoPictures:
    """Return the pictures of a run; those that its folder keeps if its images are not here any more."""
    kept = load_pictures(run_dir)
    loaded = ((name, load_predictions(run_dir, name)) for name in ("test", "val"))
    split, predictions = next(((name, found) for name, found in loaded if found is not None), (None, None))
    mistakes = [] if predictions is None else _mistakes(kept, predictions, classifier.class_names)
    try:
        own = find_images(run_dir, config, classifier.class_names, classifier.decoding, NUM_EXAMPLES)
        return DemoPictures(mistakes, list(own.pixels), f"Or try a {own.kind} of the run")
    except MissingInputError:
        sample = kept.get("predictions", Pictures([]))
        some = np.unique(np.linspace(0, len(sample.pixels) - 1, NUM_EXAMPLES).astype(int)) if sample.pixels else []
        return DemoPictures(mistakes, [sample.pixels[place] for place in some], f"Or try a {split} image of the run")


def _mistakes(kept: dict[str, Pictures], predictions: Predictions, class_names: list[str]) -> list[Mistake]:
    worst, heats = kept.get("worst_mistakes", Pictures([])), kept.get("gradcam", Pictures([]))
    heat_of = dict(zip(heats.places, heats.pixels, strict=True))
    return [
        Mistake(
            pixels,
            heat_of.get(place),
            str(predictions.names[place]),
            class_names[predictions.preds[place]],
            class_names[predictions.labels[place]],
            float(predictions.confidence[place]),
        )
        for pixels, place in zip(worst.pixels, worst.places, strict=True)
    ]
