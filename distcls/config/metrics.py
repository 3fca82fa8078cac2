"""The one table of metrics: what each is called, which value is better, how it is written and where it is shown.

The formulas are in inference/metrics.py, under the same names. A metric that is added here, with its formula
there, appears wherever its line says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Metric:
    """One number that a split is measured by. Shares are from 0 to 1."""

    name: str
    """In metrics.json, metrics.csv, TensorBoard and settings."""
    title: str
    format: str
    better: Literal["higher", "lower"] | None
    """Such a metric has a column in metrics.csv, and `train.best_metric` can choose it; None for a plain count."""
    rank: int | None = None
    """Its place in the table of evaluations, of which a narrow terminal drops the highest first; None: not there."""
    of_training: bool = False
    """True if training measures it too: "train_" and its name is the mean over the steps since the last evaluation."""
    in_summary: bool = False
    """True if the tables at the end of a run and of `distcls crossval` have it; `distcls eval` shows all."""
    in_curves: bool = False
    """True if plots/curves.png draws it."""

    def text(self, value: Any) -> str:
        """Return a value as people read it."""
        return format(value, self.format)

    def is_better(self, value: float, than: float) -> bool:
        """True if a value beats another one. A NaN never does."""
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
"""Those that can choose the best weights, and that metrics.csv has."""

TRAIN_MEANS = {f"train_{metric.name}": metric for metric in METRICS.values() if metric.of_training}
"""Of the training steps since the last evaluation, by their name in metrics.csv."""
