"""Predicts the classes of image files with a run's model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from distcls.data.decoding.decode import BadImageError, decode
from distcls.data.sources.listing import list_images
from distcls.errors import MissingInputError
from distcls.files.atomic import printable
from distcls.inference.classifier import Classifier

BATCH_SIZE = 64
"""The number of images to pass to `predict` at a time."""


def find_images(names: Sequence[str]) -> list[Path]:
    """Return the files as given, and the images in folders. Raises MissingInputError for a missing file or folder."""
    paths: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            paths += [path / name for name in list_images(str(path)).split_paths()]
        elif path.exists():
            paths.append(path)
        else:
            raise MissingInputError(f"{name}: no such image or folder.")
    if not paths:
        raise MissingInputError(f"there are no images in {', '.join(names)}.")
    return paths


def print_predictions(classifier: Classifier, paths: Sequence[Path], top: int) -> list[str]:
    """Print one line per image: its path, and its `top` classes with probabilities. Return the unreadable ones."""
    images, good, bad = [], [], []
    for path in paths:
        try:
            images.append(decode(path, classifier.decoding))
            good.append(path)
        except BadImageError as reason:
            bad.append(f"{path}: {reason}")
    if images:
        for path, line in zip(good, predict(classifier, images).tolist(), strict=True):
            best = sorted(range(len(line)), key=lambda c: -line[c])[:top]
            print(printable(f"{path}  " + "  ".join(f"{classifier.class_names[c]} {line[c]:.1%}" for c in best)))
    return bad


def predict(classifier: Classifier, images: Sequence[np.ndarray]) -> torch.Tensor:
    """Return probabilities (n, C), on the CPU, for uint8 images (S, S, 3) from `decode`."""
    with torch.inference_mode():
        return classifier(torch.from_numpy(np.stack(images)).to(classifier.device)).cpu()
