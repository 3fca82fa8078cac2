"""The table of all metrics: their names, which values are better, how they are formatted and where they are shown.

The formulas are in inference/metrics.py, under the same names. Add a metric here and its formula there, and it appears
wherever its line says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Metric:
    """One number that is measured on a split. Shares are from 0 to 1."""

    name: str
    """Its name in metrics.json, metrics.csv, TensorBoard and settings."""
    title: str
    format: str
    better: Literal["higher", "lower"] | None
    """If set, the metric has a column in metrics.csv and can be `train.best_metric`; None for plain counts."""
    rank: int | None = None
    """Its place in the table of evaluations; narrow terminals drop the highest ranks first. None: not in the table."""
    of_training: bool = False
    """True if training measures it too; "train_" plus its name is the mean over the steps since the last evaluation."""
    in_summary: bool = False
    """True if it is in the tables at the end of a run and of `distcls crossval`; `distcls eval` shows all metrics."""
    in_curves: bool = False
    """True if plots/curves.png draws it."""

    def text(self, value: Any) -> str:
        """Return a value formatted for people."""
        return format(value, self.format)

    def is_better(self, value: float, than: float) -> bool:
        """True if a value is better than another one. NaN never is."""
        return value < than if self.better == "lower" else value > than


METRICS = {
    metric.name: metric
    for metric in (
        Metric("loss", "loss", ".4f", "lower", rank=0, of_training=True, in_summary=True, in_curves=True),
        Metric("accuracy", "accuracy", ".2%", "higher", rank=0, of_training=True, in_summary=True, in_curves=True),
        Metric("top5", "top-5", ".2%", "higher", rank=5, in_summary=True),
        Metric("macro_f1", "macro F1", ".4f", "higher", rank=3, in_summary=True),
        Metric("macro_precision", "macro precision", ".4f", "higher"),
        Metric("macro_recall", "macro recall", ".4f", "higher"),
        Metric("weighted_f1", "weighted F1", ".4f", "higher"),
        Metric("weighted_precision", "weighted precision", ".4f", "higher"),
        Metric("ece", "ECE", ".4f", "lower", rank=6, in_summary=True),
        Metric("nll", "negative log-likelihood", ".4f", "lower"),
        Metric("brier", "Brier score", ".4f", "lower"),
        Metric("count", "images", ",d", None, in_summary=True),
    )
}

BEST_METRICS = tuple(metric.name for metric in METRICS.values() if metric.better)
"""The metrics that can pick the best weights; metrics.csv has a column for each."""

TRAIN_MEANS = {f"train_{metric.name}": metric for metric in METRICS.values() if metric.of_training}
"""The means over the training steps since the last evaluation, by their names in metrics.csv."""
