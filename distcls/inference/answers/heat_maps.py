"""Draws where a classifier saw the class that it predicted: each image beside a copy with its Grad-CAM heat over it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from distcls.data.loading.given_images import GivenImages
from distcls.inference.answers.prediction import Prediction
from distcls.inference.classifier import Classifier
from distcls.inference.gradcam import grad_cam, gradcam_layer, overlay

SMALLEST = 224
"""Pixels: smaller images are enlarged by a whole number, or nobody could see them."""


class HeatMaps:
    """A folder of pictures, DIR/PATH.png for the image at PATH; PATH-2.png if that is another image's already."""

    def __init__(self, classifier: Classifier, folder: Path) -> None:
        """Raise UsageError if the network has no layer that is laid out like the image."""
        self.classifier, self.folder = classifier, folder
        self.layer = gradcam_layer(classifier)
        self.written: set[Path] = set()

    def write(self, batch: GivenImages, found: Sequence[Prediction]) -> None:
        """Write a picture for each good image of a batch, whose images are paths. found: their
        predictions, in the same order. Raises OSError."""
        classes = np.array([one.probs.argmax() for one in found], np.int64)
        heats = grad_cam(self.classifier, batch.pixels, classes, self.layer)
        pixels = batch.pixels.cpu().numpy()
        for path, pair in zip(batch.good, np.concatenate([pixels, overlay(pixels, heats)], 2), strict=True):
            times = -(-SMALLEST // pair.shape[0])
            file = self._free(self.folder / picture_name(path))
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pair.repeat(times, 0).repeat(times, 1)).save(file)

    def _free(self, file: Path) -> Path:
        """Return the name of a picture that no other of this command has: photos/a and ../photos/a may differ."""
        others = (file.with_name(f"{file.stem}-{number}{file.suffix}") for number in itertools.count(2))
        free = next(one for one in itertools.chain([file], others) if one not in self.written)
        self.written.add(free)
        return free


def picture_name(path: str) -> Path:
    """Return where the picture of an image lies in the folder: as the image does, without leaving it."""
    normal = Path(os.path.normpath(path))
    inside = [part for part in normal.parts if part not in (normal.anchor, os.pardir)]  # the anchor may be //
    return Path(*inside[:-1], f"{inside[-1]}.png")
