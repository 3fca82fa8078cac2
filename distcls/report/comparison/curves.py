"""Draws the curves of several runs over each other, for the page that compares them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from distcls.config.metrics import METRICS, Metric
from distcls.errors import DistclsError
from distcls.report.comparison.rows import Row
from distcls.report.curve_points import is_steep, points, train_means
from distcls.report.html.charts import NUM_COLORS, Line, line_chart
from distcls.runs.overview import Overview
from distcls.runs.tracking.metrics_file import read_metrics


@dataclass(frozen=True)
class _Logged:
    """The metrics.csv of each run of a row that has one."""

    name: str
    of_runs: Sequence[Sequence[Mapping[str, Any]]]


def overlaid_curves(rows: Sequence[Row]) -> list[Markup]:
    """Return a chart for each metric and split, of the first rows with curves: as many as there are colors.

    A group of runs is a line for their mean, over faint ones for each of them.
    """
    logged: list[_Logged] = []
    for row in rows:
        found = _Logged(row.name, [lines for run in row.runs if (lines := _read(run))])
        if found.of_runs and len(logged) < NUM_COLORS:
            logged.append(found)
    of_val = [metric for metric in METRICS.values() if metric.in_curves]
    of_training = [metric for metric in of_val if metric.of_training][:1]  # the loss: three charts fill a line
    charts = [_chart(metric, "val", logged) for metric in of_val]
    charts += [_chart(metric, "train", logged) for metric in of_training]
    return [chart for chart in charts if chart is not None]


def _read(run: Overview) -> list[dict[str, Any]]:
    try:
        return read_metrics(run.dir / "metrics.csv")
    except (OSError, DistclsError):  # a missing or damaged file has no curves
        return []


def _chart(metric: Metric, split: str, logged: Sequence[_Logged]) -> Markup | None:
    lines = [line for color, one in enumerate(logged) for line in _lines(one, metric, split, color)]
    if not lines:
        return None
    steep = is_steep(metric, [value for line in lines for value in line.y])
    return line_chart(f"{split.capitalize()} {metric.title}", lines, metric.text, log=steep)


def _lines(logged: _Logged, metric: Metric, split: str, color: int) -> list[Line]:
    curves = [_curve(rows, metric, split) for rows in logged.of_runs]
    curves = [(x, y) for x, y in curves if len(x)]
    if len(curves) < 2:
        return [Line(logged.name, x, y, color) for x, y in curves]
    length = min(len(x) for x, _ in curves)  # early stopping ends some runs sooner
    mean = [np.mean([of_run[:length] for of_run in values], axis=0) for values in zip(*curves, strict=True)]
    return [*(Line("", x, y, color, is_faint=True) for x, y in curves), Line(logged.name, mean[0], mean[1], color)]


def _curve(rows: Sequence[Mapping[str, Any]], metric: Metric, split: str) -> tuple[np.ndarray, np.ndarray]:
    return points(rows, "val", metric.name) if split == "val" else train_means(rows, metric.name)
