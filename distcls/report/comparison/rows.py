"""Decides what a row of a table of runs is: one run, or all runs that repeat the same recipe with other seeds."""

from __future__ import annotations

import os
import re
import statistics
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from distcls.config.differences import recipe
from distcls.config.wording import count
from distcls.runs.overview import Overview

REPEATED = {"train.seed": "seed", "data.fold": "fold"}
"""Settings in which repetitions of a run differ, and what to call one of their values."""

ENDING = re.compile(r"([-_. /]+(seed|fold|run|s)?[-_. /]*\d*)?$", re.IGNORECASE)
"""The end of the names that repetitions have in common, as in lr1-seed, that does not name the group."""


@dataclass(frozen=True)
class Row:
    """A run, or a group of finished runs with one recipe."""

    name: str
    runs: Sequence[Overview]

    @property
    def is_group(self) -> bool:
        """True if the row stands for several runs."""
        return len(self.runs) > 1

    @property
    def state(self) -> str:
        """The state of the run, or of all in the group."""
        return self.runs[0].state

    def mean(self, of: Callable[[Overview], float | None]) -> float | None:
        """Return a number of a run, or its mean over a group; None if a run does not have it."""
        values = [value for value in map(of, self.runs) if value is not None]
        if len(values) < len(self.runs):
            return None
        return statistics.fmean(values) if self.is_group else values[0]

    def agreed(self, of: Callable[[Overview], Any]) -> Any:
        """Return what all its runs have; None if they do not agree."""
        values = list(map(of, self.runs))
        return values[0] if all(value == values[0] for value in values) else None

    def spread(self, of: Callable[[Overview], float | None]) -> float | None:
        """Return the sample's standard deviation (n - 1) over the runs of a group; None for a single run."""
        values = [value for value in map(of, self.runs) if value is not None]
        return statistics.stdev(values) if self.is_group and len(values) == len(self.runs) else None


def single_rows(runs: Sequence[Overview], names: Sequence[str]) -> list[Row]:
    """Return one row for each run."""
    return [Row(name, [run]) for run, name in zip(runs, names, strict=True)]


def grouped_rows(runs: Sequence[Overview], names: Sequence[str]) -> list[Row]:
    """Return one row for each recipe, in the order of their first runs. Unfinished runs stay alone.

    A run with the seed and fold of another is a copy, not a repetition: it does not join the other's group.
    """
    groups: dict[Hashable, list[int]] = {}
    copies: Counter[Hashable] = Counter()
    for i, run in enumerate(runs):
        key = _recipe(run) if run.is_finished else i
        repetition = key, *(run.config.at(path) for path in REPEATED)
        groups.setdefault((key, copies[repetition]), []).append(i)
        copies[repetition] += 1
    rows: list[Row] = []
    for members in groups.values():
        taken = {row.name for row in rows}
        rows.append(_row([runs[i] for i in members], [names[i] for i in members], taken))
    return rows


def varied(runs: Sequence[Overview]) -> list[str]:
    """Return in what these runs repeat each other: "seed", "fold" or both."""
    return [word for path, word in REPEATED.items() if len({run.config.at(path) for run in runs}) > 1]


def _recipe(run: Overview) -> Hashable:
    """Return what repetitions share: settings, and images. Folds share only the images of test, and where they are."""
    is_fold = run.config.data.fold is not None
    images = (run.config.data.root, run.split_fingerprints.get("test")) if is_fold else run.fingerprint
    return recipe(run.config, REPEATED), images


def _row(runs: Sequence[Overview], names: Sequence[str], taken: set[str]) -> Row:
    """Return a row that is named after what its runs' names begin with, such as "lr1 (3 seeds)"."""
    if len(runs) == 1:
        return Row(names[0], runs)
    words = varied(runs)
    number = count(len(runs), words[0] if len(words) == 1 else "run")
    shared = os.path.commonprefix(names)  # noqa: RUF071 (in characters, not folders)
    # A whole number, as in lr0.1 and lr0.1-b, belongs to the recipe; the 1 of x-10 and x-11 does not.
    ends_whole = shared[-1:].isdigit() and not any(name[len(shared) :][:1].isdigit() for name in names)
    stem = shared if ends_whole else ENDING.sub("", shared)
    candidates = [f"{name} ({number})" for name in (stem, *names) if name]
    return Row(next(name for name in candidates if name not in taken), runs)
