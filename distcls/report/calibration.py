"""Draws the reliability diagram, which shows if a model is right as often as its confidence says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from distcls.report.figure import BLUE, GRAY, ORANGE, figure_file


def plot_calibration(
    confidence_sum: np.ndarray, correct: np.ndarray, count: np.ndarray, ece: float, split: str, path: str | Path
) -> None:
    """Draw a reliability diagram: how often the model is right when it is, say, 80 % confident, and how often it is so.

    confidence_sum, correct, count: (bins,), for bins of equal width from 0 to 1, the sum of confidences and the
    numbers of correct predictions and of images. ece: expected calibration error, a share.
    """
    with figure_file(path, 5.2, 6) as figure:
        reliability, histogram = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
        _draw_reliability(reliability, confidence_sum, correct, count)
        reliability.set_title(f"Calibration on the {split} split: ECE {ece:.4f}")
        _draw_confidences(histogram, count)


def _draw_reliability(axes: Axes, confidence_sum: np.ndarray, correct: np.ndarray, count: np.ndarray) -> None:
    edges = np.linspace(0, 1, len(count) + 1)
    seen = count > 0
    confidence, accuracy = confidence_sum[seen] / count[seen], correct[seen] / count[seen]
    left, width = edges[:-1][seen], 1 / len(count)
    axes.bar(left, accuracy, width, align="edge", color=BLUE, edgecolor="white", label="share correct")
    gap = {"facecolor": "none", "edgecolor": ORANGE, "hatch": "////", "linewidth": 0.8}
    axes.bar(left, confidence - accuracy, width, accuracy, align="edge", label="gap to the confidence", **gap)
    axes.plot([0, 1], [0, 1], color=GRAY, linestyle="--", linewidth=1, label="perfectly calibrated")
    axes.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left")


def _draw_confidences(axes: Axes, count: np.ndarray) -> None:
    edges = np.linspace(0, 1, len(count) + 1)
    axes.bar(edges[:-1], count / max(count.sum(), 1), 1 / len(count), align="edge", color=GRAY, edgecolor="white")
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.set(xlabel="confidence", ylabel="images")
