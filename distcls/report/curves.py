"""The curves of a run: loss, accuracy and learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from distcls.report.figure import BLUE, GREY, ORANGE, figure_file


def plot_curves(rows: Sequence[Mapping[str, Any]], path: str | Path, kept_step: int | None = None) -> None:
    """Loss, accuracy and learning rate against epochs, from the rows of tracking.read_metrics.

    kept_step: of the evaluation whose weights were kept, which gets a star.
    """
    with figure_file(path, 12, 4.1) as figure:
        loss, accuracy, lr = figure.subplots(1, 3, width_ratios=[4, 4, 2.4])
        _draw_curve(loss, rows, "loss", kept_step)
        _draw_curve(accuracy, rows, "accuracy", kept_step)
        _draw_lr(lr, rows)


def _draw_curve(axes: Axes, rows: Sequence[Mapping[str, Any]], name: str, kept_step: int | None) -> None:
    epochs, values = _points(rows, "train", name)
    window = max(_points_per_epoch(epochs), len(values) // 60, 1)
    if window > 1:
        axes.plot(epochs, values, color=BLUE, alpha=0.25, linewidth=0.8)
    if len(values):
        smooth = _smooth(epochs, values, window)
        axes.plot(*smooth, color=BLUE, label="train", **(_marker(len(values)) if window == 1 else {}))
    _draw_val(axes, rows, name, kept_step)
    _finish_curve(axes, name)


def _draw_val(axes: Axes, rows: Sequence[Mapping[str, Any]], name: str, kept_step: int | None) -> None:
    epochs, values = _points(rows, "val", name)
    if not len(values):
        return
    axes.plot(epochs, values, color=ORANGE, label="val", **_marker(len(values)))
    kept = [row for row in rows if kept_step is not None and row["step"] == kept_step]
    for epoch, value in zip(*_points(kept, "val", name), strict=True):
        star = {"markersize": 12, "color": ORANGE, "markeredgecolor": "white", "zorder": 5}
        axes.plot(epoch, value, "*", label=f"kept: {value:.4f} at epoch {epoch:.1f}", **star)


def _finish_curve(axes: Axes, name: str) -> None:
    lines = [value for line in axes.lines for value in np.atleast_1d(line.get_ydata())]
    if not lines:
        _say_that_empty(axes)
    elif name == "loss" and min(lines) > 0 and max(lines) > 50 * min(lines):
        axes.set_yscale("log")
        # Plain numbers: matplotlib's own labels are formulas, which the style does not typeset.
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    elif name == "accuracy":
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.4g}")
    axes.set_title(name.capitalize())
    axes.set_xlabel("epoch")
    if lines:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False)


def _draw_lr(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    epochs, values = _points(rows, "train", "lr")
    if len(values):
        axes.plot(epochs, values, color=GREY, **_marker(len(values)))
        axes.set_ylim(bottom=0)
    else:
        _say_that_empty(axes)
    axes.set_title("Learning rate")
    axes.set_xlabel("epoch")
    axes.yaxis.set_major_formatter(lambda lr, _: f"{lr:.3g}")


def _say_that_empty(axes: Axes) -> None:
    axes.text(0.5, 0.5, "nothing logged yet", ha="center", transform=axes.transAxes, color=GREY)


def _points(rows: Sequence[Mapping[str, Any]], split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and finite values of one curve."""
    points = [
        (row["epoch"], row[name])
        for row in rows
        if row["split"] == split and row.get("epoch") is not None and row.get(name) is not None
    ]
    curve = np.array([point for point in points if math.isfinite(point[1])], dtype=float).reshape(-1, 2)
    return curve[:, 0], curve[:, 1]


def _points_per_epoch(epochs: np.ndarray) -> int:
    """How many points an epoch has, where there are epochs enough to show a mean of each; else 0."""
    return round(len(epochs) / epochs[-1]) if len(epochs) and epochs[-1] >= 8 else 0


def _smooth(epochs: np.ndarray, values: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Running means of `window` points, each at the mean of their epochs, so that it does not lag."""
    kernel = np.ones(window) / window
    return np.convolve(epochs, kernel, "valid"), np.convolve(values, kernel, "valid")


def _marker(num_points: int) -> dict[str, Any]:
    return {"marker": "o", "markersize": 3.5} if num_points <= 40 else {"linewidth": 1.6 if num_points < 200 else 1}
