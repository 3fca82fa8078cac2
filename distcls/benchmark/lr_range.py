"""Finds a learning rate by a range test: the rate grows from step to step until the loss diverges.

After L. N. Smith, Cyclical Learning Rates for Training Neural Networks (arXiv 1506.01186), with the exponential growth
and the suggestion of fastai: the rate at which the loss falls fastest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distcls.benchmark.timing import WHOLE_STEPS, Limits, run_measured, with_given
from distcls.config.settings import Config
from distcls.errors import DivergedError, UsageError
from distcls.optim.schedules import lr_at
from distcls.report.figure import BLUE, GRAY, ORANGE, figure_file

SMALLEST, LARGEST = 1e-7, 10.0
SMOOTHING = 0.9
"""Weight of the losses before, in the moving mean of the loss."""

DIVERGED = 3.0
"""A loss so many times the lowest one ends the curve."""

FEWEST_STEPS = 20


@dataclass(frozen=True)
class LrRange:
    """The smoothed loss at each learning rate."""

    lrs: list[float]
    losses: list[float]
    suggestion: float
    """The rate at which the loss falls fastest."""


def find_lr(config: Config, num_steps: int) -> LrRange:
    """Return the curve of a range test of so many steps. The whole network is trained, with its optimizer.

    Raises UsageError if no loss of the curve is finite, and what `train` raises otherwise.
    """
    settings = {
        **WHOLE_STEPS,
        "train.num_steps": num_steps + 1,
        "optim.schedule": "range_test",
        "optim.min_lr": SMALLEST,
        "optim.lr": LARGEST,
        "optim.warmup": "0 steps",
        "optim.milestones": [],
    }
    limits = Limits(warmup=0, steps=num_steps, seconds=math.inf)
    measured = run_measured(with_given(config, settings), limits, expected=(DivergedError,))
    plan, optim = measured.task.plan, measured.task.config.optim
    losses = [float(np.mean([float(loss) for loss in step])) for step in measured.losses if step]
    return read_range([lr_at(step, optim, plan) for step in range(len(losses))], losses)


def read_range(lrs: list[float], losses: list[float]) -> LrRange:
    """Return the smoothed curve up to where it diverges, and the suggestion. Raises UsageError if there is no curve."""
    smoothed, mean = [], 0.0
    for number, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smoothed.append(mean / (1 - SMOOTHING**number))
        if not math.isfinite(smoothed[-1]) or smoothed[-1] > DIVERGED * min(smoothed):
            smoothed.pop()
            break
    if len(smoothed) < FEWEST_STEPS:
        raise UsageError(
            f"the loss diverged after {len(smoothed)} of {len(losses)} steps, at a learning rate of "
            f"{lrs[max(len(smoothed) - 1, 0)]:.1e}, which says nothing about larger ones: check the data and the model."
        )
    slopes = np.gradient(np.array(smoothed), np.log(lrs[: len(smoothed)]))
    return LrRange(lrs[: len(smoothed)], smoothed, lrs[int(np.argmin(slopes))])


def plot_range(found: LrRange, path: Path) -> None:
    """Draw the curve, with the suggestion. Raises DiskError."""
    with figure_file(path, 6.4, 4.0) as figure:
        axes = figure.add_subplot()
        axes.plot(found.lrs, found.losses, color=BLUE)
        axes.axvline(found.suggestion, color=ORANGE, linestyle="--", linewidth=1.2)
        axes.annotate(
            f" {found.suggestion:.1e}", (found.suggestion, axes.get_ylim()[1]), color=ORANGE, va="top", ha="left"
        )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda lr, _: f"{lr:.0e}")
        axes.set_xlabel("learning rate")
        axes.set_ylabel("training loss, smoothed")
        axes.set_title("learning-rate range test")
        axes.grid(color=GRAY, alpha=0.2)
