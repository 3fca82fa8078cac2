"""Draws the curves of a run: loss, accuracy and learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from distcls.config.metrics import METRICS, Metric
from distcls.report.curve_points import is_steep, points, train_means
from distcls.report.figure import BLUE, GRAY, ORANGE, figure_file


def plot_curves(rows: Sequence[Mapping[str, Any]], path: str | Path, kept_step: int | None = None) -> None:
    """Draw loss, accuracy and learning rate against epochs, from the rows of read_metrics.

    Training is drawn as means over all steps between evaluations or, without evaluations, over the logged steps of
    each epoch. kept_step: the step of the evaluation whose weights were kept, marked with a star.
    """
    metrics = [metric for metric in METRICS.values() if metric.in_curves]
    with figure_file(path, 4.3 * len(metrics) + 3.4, 3.8) as figure:
        *curves, lr = figure.subplots(1, len(metrics) + 1, width_ratios=[*[4] * len(metrics), 2.4])
        for metric, axes in zip(metrics, curves, strict=True):
            _draw_train(axes, rows, metric.name)
            _draw_val(axes, rows, metric.name, kept_step)
            _finish_curve(axes, metric)
        _draw_lr(lr, rows)


def _draw_train(axes: Axes, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    epochs, values = points(rows, "train", name)
    means = train_means(rows, name)
    if len(values) >= 4 * len(means[0]) or len(means[0]) < 3:  # otherwise single steps add little to the means
        axes.plot(epochs, values, color=BLUE, alpha=0.25, linewidth=0.8)
    if len(means[0]):
        label = "train (epoch means)" if _are_of_epochs(rows) else "train (means between evaluations)"
        axes.plot(*means, color=BLUE, label=label, **_marker(len(means[0])))


def _are_of_epochs(rows: Sequence[Mapping[str, Any]]) -> bool:
    """True if the means are over about one epoch each, as they are without evaluations."""
    epochs = [row["epoch"] for row in rows if row["split"] == "val" and row.get("train_loss") is not None]
    return not epochs or all(0.9 <= gap <= 1.1 for gap in np.diff([0.0, *epochs])[:-1])


def _draw_val(axes: Axes, rows: Sequence[Mapping[str, Any]], name: str, kept_step: int | None) -> None:
    epochs, values = points(rows, "val", name)
    if not len(values):
        return
    axes.plot(epochs, values, color=ORANGE, label="val", **_marker(len(values)))
    kept = [row for row in rows if kept_step is not None and row["step"] == kept_step]
    for epoch, value in zip(*points(kept, "val", name), strict=True):
        star = {"markersize": 12, "color": ORANGE, "markeredgecolor": "white", "zorder": 5}
        axes.plot(epoch, value, "*", label=f"kept: {METRICS[name].text(value)}, epoch {epoch:.1f}", **star)


def _finish_curve(axes: Axes, metric: Metric) -> None:
    lines = [value for line in axes.lines for value in np.atleast_1d(line.get_ydata())]
    if not lines:
        _say_that_empty(axes)
    elif is_steep(metric, lines):
        axes.set_yscale("log")
        # Plain numbers, because matplotlib's own labels are formulas, which our style does not typeset.
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    elif metric.format.endswith("%"):
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.4g}%")
    axes.set_title(metric.title.capitalize())
    axes.set_xlabel("epoch")
    if lines:
        axes.set_xlim(left=0)
        axes.legend()


def _draw_lr(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    epochs, values = points(rows, "train", "lr")
    if len(values):
        axes.plot(epochs, values, color=GRAY, **_marker(len(values)))
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
    else:
        _say_that_empty(axes)
    axes.set_title("Learning rate")
    axes.set_xlabel("epoch")
    axes.yaxis.set_major_formatter(lambda lr, _: f"{lr:.3g}")


def _say_that_empty(axes: Axes) -> None:
    axes.text(0.5, 0.5, "nothing logged yet", ha="center", transform=axes.transAxes, color=GRAY)


def _marker(num_points: int) -> dict[str, Any]:
    return {"marker": "o", "markersize": 3.5} if num_points <= 40 else {"linewidth": 1.6 if num_points < 200 else 1}
