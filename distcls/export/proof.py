"""Proves an exported file: it must give the answers that PyTorch gives, on the run's own images, at any batch size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from distcls.errors import InexactExportError
from distcls.export.portable import Portable

Outputs = Callable[[np.ndarray], np.ndarray]
"""From uint8 images (n, S, S, 3) to outputs, float32 (n, C)."""

BATCH_SIZES = (1, 2, 5)
REFERENCE_BATCH = 25


@dataclass(frozen=True)
class Agreement:
    """How far two ways of computing the same probabilities are apart."""

    num_images: int
    num_same_class: int
    largest_difference: float
    """Of any image and class; nan if an output is not a number."""


def prove(outputs: Outputs, portable: Portable, images: np.ndarray) -> Agreement:
    """Return how well a file agrees with PyTorch; the worst of the BATCH_SIZES.

    images: uint8 (n, S, S, 3). Raises InexactExportError if the file cannot take a batch, or returns a wrong shape.
    """
    expected = in_batches(portable.predict, images, REFERENCE_BATCH)
    found = []
    for size in BATCH_SIZES:
        try:
            given = in_batches(outputs, images, size)
        except Exception as error:  # of the runtime's own kinds
            raise InexactExportError(f"nothing was written: the file fails with a batch of {size}: {error}") from error
        if given.shape != expected.shape:
            raise InexactExportError(
                f"nothing was written: in batches of {size}, the file returns {given.shape}, not {expected.shape}"
            )
        found.append(compare(given, expected, portable.gives_logits))
    return Agreement(
        len(images), min(one.num_same_class for one in found), float(np.max([one.largest_difference for one in found]))
    )


def compare(given: np.ndarray, expected: np.ndarray, are_logits: bool) -> Agreement:
    """Return how two arrays of outputs (n, C) agree, as probabilities even if they are logits."""
    same = int((given.argmax(1) == expected.argmax(1)).sum())
    if are_logits:
        given, expected = softmax(given), softmax(expected)
    return Agreement(len(given), same, float(np.abs(given - expected).max()))


def refuse_above(agreement: Agreement, tolerance: float) -> None:
    """Raise InexactExportError if a probability differs by more than the tolerance, or is not a number."""
    if not agreement.largest_difference <= tolerance:
        raise InexactExportError(
            f"nothing was written: probabilities differ from PyTorch's by up to {agreement.largest_difference:.2g}, "
            f"more than {tolerance:g}; the class is the same for {agreement.num_same_class} of {agreement.num_images} "
            "images. Try another --format, or accept the difference with a larger --tolerance"
        )


def in_batches(outputs: Outputs, images: np.ndarray, size: int) -> np.ndarray:
    """Return the outputs (n, C) for images given `size` at a time."""
    return np.concatenate([outputs(images[start : start + size]) for start in range(0, len(images), size)])


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities (n, C)."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
