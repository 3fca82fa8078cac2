"""The part of a run's page about its course: loss, accuracy and learning rate against epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from distcls.config.metrics import METRICS, Metric
from distcls.report.curve_points import is_steep, points, train_means
from distcls.report.html.charts import Line, line_chart
from distcls.report.html.page import Section, grid
from distcls.report.run_page.facts import RunFacts


def curve_section(facts: RunFacts) -> Section:
    """Return the section with the curves. Values appear below the pointer."""
    kept = [row["epoch"] for row in facts.rows if row["split"] == "val" and row["step"] == facts.kept_step]
    star = kept[0] if kept else None
    charts = [_chart(metric, facts.rows, star) for metric in METRICS.values() if metric.in_curves]
    epochs, rates = points(facts.rows, "train", "lr")
    charts.append(
        line_chart("Learning rate", [Line("learning rate", epochs, rates, 3)], "{:.3g}".format, from_zero=True)
    )
    note = "Move over a curve to read its values."
    if star is not None:
        note += " The star marks the evaluation whose weights were kept."
    return Section("Curves", grid(charts), note)


def _chart(metric: Metric, rows: Sequence[Mapping[str, Any]], star: float | None) -> Markup:
    steps = points(rows, "train", metric.name)
    means = train_means(rows, metric.name)
    lines = [Line("train", *means, color=0)]
    if len(steps[0]) >= 4 * len(means[0]) or len(means[0]) < 3:
        lines.insert(0, Line("train, single steps", *steps, color=0, is_faint=True))
    val = points(rows, "val", metric.name)
    lines.append(Line("val", *val, color=1, star=star if len(val[0]) else None))
    steep = is_steep(metric, [value for line in lines for value in line.y])
    return line_chart(metric.title.capitalize(), lines, metric.text, log=steep)
