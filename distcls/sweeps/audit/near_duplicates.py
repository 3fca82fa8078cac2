"""Finds pairs of images that show nearly the same picture: resized, compressed again, recolored, mirrored, retouched.

Each image becomes a signature: the low frequencies of its gray values, by a discrete cosine transform, as in perceptual
hashes (Zauner 2010, "Implementation and benchmarking of perceptual image hash functions"). Instead of one bit, each
frequency keeps the square root of its amplitude. In a mirrored image, odd horizontal frequencies change their sign and
nothing else, so that mirrored pairs cost nothing extra.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.fft import dctn

FREQUENCIES = 16
"""Frequencies per axis in a signature."""

SIMILARITY = 0.7
"""Cosine of two signatures from which on photographs count as near-duplicates: measured, see docs/audit.md."""

OUTLIER = 6.0
"""Standard deviations above the median of all pairs that near-duplicates must have, too."""

LARGEST_SIMILARITY = 0.97
"""… but never more than this."""

SAMPLE = 1000
"""Images whose pairs tell how similar images of this data set are by chance."""

MOST_PAIRS = 50_000
"""More is no list for people."""

BLOCK, COLUMNS = 1024, 16 * 1024
"""Signatures to compare at a time, with how many others."""

LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Pair:
    """Two images, by their positions: first < second."""

    first: int
    second: int
    similarity: float
    """Cosine of their signatures, up to 1."""
    is_mirrored: bool


def find_near_duplicates(
    squares: np.ndarray, progress: Callable[[int, int], None] | None = None, most: int = MOST_PAIRS
) -> list[Pair]:
    """Return the pairs of near-duplicates, the most similar first; if there are too many, only the `most` similar.

    Takes time in proportion to N²: 60,000 images are 1.8 billion pairs.

    squares: uint8 (N, S, S, 3). progress: called with (images done, total images).
    """
    found: np.ndarray = np.empty((0, 4))
    even, odd = _signatures(squares)
    least = _least_similarity(even, odd)
    for start in range(0, len(squares), BLOCK):
        if progress is not None:
            progress(start, len(squares))
        rows = slice(start, start + BLOCK)
        for left in range(start, len(squares), COLUMNS):  # all columns at once would need 5 GB for a million images
            columns = slice(left, left + COLUMNS)
            turned = odd[rows] @ odd[columns].T
            similarity = even[rows] @ even[columns].T + np.abs(turned)
            first, second = np.nonzero(np.triu(similarity >= least, start - left + 1))
            pairs = (first + start, second + left, similarity[first, second], turned[first, second] < 0)
            found = np.concatenate([found, np.stack(pairs, 1)])
            if len(found) > most:
                found = found[np.argsort(-found[:, 2], kind="stable")[:most]]
    if progress is not None:
        progress(len(squares), len(squares))
    order = np.lexsort((found[:, 1], found[:, 0], -found[:, 2]))
    return [Pair(int(a), int(b), float(similarity), bool(turned)) for a, b, similarity, turned in found[order]]


def _least_similarity(even: np.ndarray, odd: np.ndarray) -> float:
    """Return the similarity of near-duplicates: SIMILARITY, or more if all images are alike, such as drawn digits."""
    rows = np.unique(np.linspace(0, len(even) - 1, SAMPLE).astype(int))
    by_chance = (even[rows] @ even[rows].T + np.abs(odd[rows] @ odd[rows].T))[np.triu_indices(len(rows), 1)]
    if len(by_chance) == 0:
        return SIMILARITY
    low, middle = np.quantile(by_chance, [0.159, 0.5])  # one standard deviation below: duplicates hardly change it
    outlier = float(middle + OUTLIER * (middle - low))
    return min(max(SIMILARITY, outlier), LARGEST_SIMILARITY)


def _signatures(squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the parts of all signatures with even and with odd horizontal frequencies, float32 (N, …) each.

    Images of one color have a signature of zeros, which is similar to nothing: they show nothing to compare.
    """
    evens, odds = [], []
    for start in range(0, len(squares), BLOCK):
        gray = squares[start : start + BLOCK].astype(np.float32) @ LUMINANCE
        spectrum: np.ndarray = np.asarray(dctn(gray, axes=(1, 2), norm="ortho"))
        amplitudes = spectrum[:, :FREQUENCIES, :FREQUENCIES]
        amplitudes[:, 0, 0] = 0  # brightness
        amplitudes[np.abs(amplitudes) < 1] = 0  # rounding, in images of one color
        signature = np.sign(amplitudes) * np.sqrt(np.abs(amplitudes))
        signature /= np.maximum(np.linalg.norm(signature, axis=(1, 2), keepdims=True), 1e-9)
        evens.append(signature[:, :, ::2].reshape(len(gray), -1))
        odds.append(signature[:, :, 1::2].reshape(len(gray), -1))
    return np.concatenate(evens), np.concatenate(odds)
