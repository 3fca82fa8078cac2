"""Keeps a sweep's trials in a study of Optuna: an append-only file, which optuna-dashboard opens too.

Only one process writes it, which holds the lock of the sweep's folder. Every trial appears in one write, with all its
values, so a kill at any moment leaves it in the study or not.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from distcls.files.atomic import drop_torn_line, naming_disk_errors
from distcls.sweeps.search.plan import Plan
from distcls.sweeps.search.space import Dimension, Point

FILE = "study.journal"

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


class _NoLock:
    """Optuna's own locks outlive a killed process by half a minute; the lock of the sweep's folder does not."""

    def acquire(self) -> bool:
        """Return True: it is taken."""
        return True

    def release(self) -> None:
        """Do nothing."""


class Study:
    """The trials of a sweep."""

    def __init__(self, plan: Plan) -> None:
        """Open the study of the sweep, or create it. Raises DiskError."""
        self.plan = plan
        self.distributions = {one.name: distribution(one) for one in plan.space.dimensions}
        path = plan.folder / FILE
        with naming_disk_errors(path):
            drop_torn_line(path)
            no_lock: Any = _NoLock()
            storage = JournalStorage(JournalFileBackend(str(path), no_lock))
            names = optuna.get_all_study_names(storage)  # its own, if the folder has been renamed
            self.optuna = optuna.create_study(
                storage=storage,
                study_name=names[0] if names else plan.folder.name,
                directions=["maximize" if better == "higher" else "minimize" for better in plan.better],
                pruner=_pruner(plan.pruner),
                load_if_exists=True,
            )

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials in these states, or all of them, in their order."""
        return self.optuna.get_trials(deepcopy=False, states=states or None)

    def refused_draws(self, number: int) -> int:
        """Return how many points earlier starts of the sweep drew for the trial with this number, all refused."""
        return self.optuna.user_attrs.get(f"refused draws for {number}", 0)

    def note_refused_draws(self, number: int, more: int) -> None:
        """Record that so many more were, so that the next start draws others."""
        self.optuna.set_user_attr(f"refused draws for {number}", self.refused_draws(number) + more)

    def add(self, point: Point) -> FrozenTrial:
        """Add a trial that is to be trained, and return it."""
        params = dict(point)
        self.optuna.add_trial(
            create_trial(state=TrialState.RUNNING, params=params, distributions=dict(self.distributions))
        )
        return self.trials()[-1]

    def report(self, number: int, values: Sequence[float]) -> bool:
        """Store a trial's values at each of its evaluations so far; return True if it is not worth continuing."""
        trial = self._open(number)
        known = self.trials()[number].intermediate_values
        if set(known) >= set(range(1, len(values) + 1)):
            return False
        for place, value in enumerate(values, 1):
            if place not in known and math.isfinite(value):
                trial.report(value, place)
        return trial.should_prune()

    def complete(self, number: int, values: Sequence[Sequence[float]], **notes: Any) -> None:
        """End a trial with its values for each seed: first the metric, then the costs."""
        means = [statistics.fmean(of_seeds) for of_seeds in zip(*values, strict=True)]
        first = [of_seed[0] for of_seed in values]
        self._note(number, by_seed=first, std=statistics.stdev(first) if len(first) > 1 else None, **notes)
        self.optuna.tell(number, means)

    def prune(self, number: int, **notes: Any) -> None:
        """End a trial because others were better at the same time."""
        self._note(number, **notes)
        self.optuna.tell(number, state=TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """End a trial that could not be trained."""
        self._note(number, reason=reason)
        self.optuna.tell(number, state=TrialState.FAIL)

    def best(self) -> list[FrozenTrial]:
        """Return the best trial; with costs, those that no other beats in everything, the best metric first."""
        if not self.trials(TrialState.COMPLETE):
            return []
        higher = self.plan.better[0] == "higher"
        return sorted(self.optuna.best_trials, key=lambda t: (-t.values[0] if higher else t.values[0], t.number))

    def _note(self, number: int, **notes: Any) -> None:
        trial = self._open(number)
        for key, value in notes.items():
            trial.set_user_attr(key, value)

    def _open(self, number: int) -> Trial:
        return Trial(self.optuna, self.trials()[number]._trial_id)


def distribution(dimension: Dimension) -> BaseDistribution:
    """Return the dimension as Optuna knows it."""
    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    if dimension.is_whole:
        return IntDistribution(
            int(dimension.low), int(dimension.high), dimension.log, 1 if dimension.log else int(dimension.step or 1)
        )
    return FloatDistribution(dimension.low, dimension.high, dimension.log, dimension.step)


def notes_of(trial: FrozenTrial) -> Mapping[str, Any]:
    """Return what was noted when the trial ended: by_seed, std, seconds or reason."""
    return trial.user_attrs


def _pruner(name: str | None) -> optuna.pruners.BasePruner:
    if name == "median":
        return optuna.pruners.MedianPruner()
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner()
    return optuna.pruners.NopPruner()
