"""One run of a trial, with one seed: its folder and arguments, and what the folder says about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distcls.config.settings import Config
from distcls.errors import DistclsError
from distcls.runs.results import EXPLAINED
from distcls.runs.status import read_object, read_status
from distcls.runs.tracking.metrics_file import read_metrics
from distcls.sweeps.search.plan import Plan, Read
from distcls.sweeps.search.space import Point

INTERRUPTED = -1
"""Instead of an exit code: the run was stopped from outside, by whatever means, and can be resumed."""


def code_of(state: str | None, status: Mapping[str, Any]) -> int:
    """Return the exit code of a run from its state and status, for when its process was not ours to wait for."""
    if state == "failed":
        return status.get("exit_code") or 1  # earlier versions did not record it
    return 0 if state == "finished" else INTERRUPTED


def last_line(log: Path, skipping: tuple[str, ...] = ()) -> str:
    """Return the last line of what a process printed; nothing if there is no such file.

    skipping: prefixes of lines to skip, which other programs print.
    """
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return next((line for line in reversed(lines) if line and not line.startswith(skipping)), "")


@dataclass(frozen=True)
class TrialRun:
    """A run folder and how to train it."""

    number: int
    """The trial's."""
    dir: Path
    words: tuple[str, ...]
    """Arguments of `distcls train`."""
    config: Config

    @property
    def name(self) -> str:
        """Return the name of its folder."""
        return self.dir.name

    def curve(self, metric: str) -> list[float]:
        """Return the metric on val at each evaluation so far."""
        try:
            rows = read_metrics(self.dir / "metrics.csv")
        except (OSError, DistclsError):  # it has not begun, or is being written
            return []
        return [row[metric] for row in rows if row["split"] == "val" and row.get(metric) is not None]

    def lacks_val(self) -> bool:
        """True if the run has begun, and has no val images."""
        splits = read_object(self.dir / "data_report.json").get("splits", {})
        return bool(splits) and "val" not in splits

    def values(self, metric: str, also: Sequence[str]) -> list[float] | None:
        """Return the metric on val and the costs of a finished run; None if one of them is missing."""
        measured = read_object(self.dir / "metrics.json").get("val", {})
        about = read_object(self.dir / EXPLAINED).get("model", {})
        costs = {
            "parameters": about.get("parameters"),
            "flops": about.get("flops"),
            "latency": about.get("latency_seconds", {}).get("1"),
        }
        found = [measured.get(metric), *(costs[name] for name in also)]
        return None if None in found else [float(value) for value in found]

    def seconds(self) -> float:
        """Return how long the run was trained, over all its starts."""
        found = read_status(self.dir).get("seconds")
        return float(found) if isinstance(found, int | float) else 0.0


def runs_of_trial(plan: Plan, number: int, point: Point, read: Read) -> list[TrialRun]:
    """Return the runs of a trial, one for each seed. Raises UsageError if its settings contradict each other."""
    seeds: list[int | None] = [*plan.seeds]
    if plan.num_seeds == 1 and read(plan.words(point)).is_given("train.seed"):
        seeds = [None]  # the space or a variant may set the seed
    runs = []
    for seed, run_dir in zip(seeds, plan.run_dirs(number, point), strict=True):
        words = plan.words(point, seed, run_dir)
        runs.append(TrialRun(number, run_dir, tuple(words), read(words)))
    return runs
