"""Draws the confusion matrix, which shows which classes are mistaken for which."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from distcls.report.figure import INK, figure_file, shorten

MAX_CLASSES_WITH_COUNTS = 20
MAX_TICKS = 40


def plot_confusion(confusion: np.ndarray, class_names: Sequence[str], split: str, path: str | Path) -> None:
    """Draw the confusion matrix of a split, int (C, C), with one row per true class, shaded by the share of its row.

    With up to 20 classes, cells show their counts; with more than 40, only some classes are named.
    """
    names = [shorten(name, 24) for name in class_names]
    side = min(max(0.42 * len(names), 3), 9)
    upright = max(map(len, names)) * 0.08 > side / min(len(names), MAX_TICKS)
    label_inches = max(map(len, names)) * 0.07
    with figure_file(path, side + label_inches + 1.2, side + (label_inches if upright else 0.2) + 0.9) as figure:
        axes = figure.subplots()
        image = axes.imshow(_row_shares(confusion), cmap="Blues", norm=_square_root_norm())
        _name_classes(axes, names, upright)
        if len(names) <= MAX_CLASSES_WITH_COUNTS:
            _write_counts(axes, confusion, side / len(names))
        _draw_colorbar(figure, image)
        right, total = int(np.trace(confusion)), int(confusion.sum())
        axes.set_title(
            f"Confusion matrix of the {split} split\n{right:,} of {total:,} correct ({right / max(total, 1):.2%})"
        )


def _row_shares(confusion: np.ndarray) -> np.ndarray:
    return confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)


def _square_root_norm() -> Any:
    """Return shades by the square root, so that confusions of a few percent are visible."""
    return PowerNorm(0.5, vmin=0, vmax=1)


def _name_classes(axes: Axes, names: Sequence[str], upright: bool) -> None:
    places = range(0, len(names), math.ceil(len(names) / MAX_TICKS))
    shown = [names[place] for place in places]
    size = 9 if len(names) <= MAX_CLASSES_WITH_COUNTS else 7
    axes.set_xticks(places, shown, rotation=90 if upright else 0, fontsize=size)
    axes.set_yticks(places, shown, fontsize=size)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="predicted", ylabel="true")


def _write_counts(axes: Axes, confusion: np.ndarray, cell_inches: float) -> None:
    shares = _row_shares(confusion)
    size = min(10, cell_inches * 90 / len(str(confusion.max())))
    for (true, predicted), count in np.ndenumerate(confusion):
        if count:
            color = "white" if shares[true, predicted] > 0.3 else INK
            axes.text(predicted, true, str(count), ha="center", va="center", color=color, fontsize=size)


def _draw_colorbar(figure: Figure, image: Any) -> None:
    ticks = {0: "0", 0.01: "1%", 0.05: "5%", 0.1: "10%", 0.25: "25%", 0.5: "50%", 1: "100%"}
    colorbar = figure.colorbar(image, ax=image.axes, fraction=0.046, aspect=30, pad=0.02, ticks=list(ticks))
    colorbar.ax.set_yticklabels(list(ticks.values()))
    colorbar.ax.grid(False)
    colorbar.outline.set_visible(False)  # type: ignore[operator]
