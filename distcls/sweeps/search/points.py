"""Chooses the next point of a search.

Grids and random points depend only on the space, the seed of the search and the trial's number, so a sweep that was
killed tries the same ones. TPE also depends on the results so far.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from distcls.config.wording import count
from distcls.errors import UsageError
from distcls.sweeps.search.plan import Plan
from distcls.sweeps.search.space import Dimension, Point, Value
from distcls.sweeps.search.study import Study

ATTEMPTS = 300
"""How often a point is drawn again, if it was tried before or is over a limit."""

TPE_ATTEMPTS = 20
"""After so many attempts TPE repeats itself, and points are drawn at random."""

DIGITS = 4
"""Significant digits of numbers from a range."""


def next_point(
    study: Study,
    plan: Plan,
    refusal: Callable[[Point], str | None],
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Value] | None:
    """Return the next point, or None if all are tried or there are enough trials.

    refusal: returns why there is to be no trial with a point, such as a network that is too large. tell: called with
    the reason if the search ends early because only refused points were drawn. Raises UsageError if there is no trial
    at all.
    """
    tried = [trial.params for trial in study.trials()]
    if plan.num_trials is not None and len(tried) >= plan.num_trials:
        return None
    reason, refused = "", 0
    candidates = plan.space.grid() if plan.search == "grid" else _drawn(study, plan, len(tried))
    for point in candidates:
        if point in tried:
            continue
        why = refusal(point)
        if why is None:
            return point
        reason, refused = why, refused + 1
    if not refused:
        return None
    if plan.search != "grid":
        study.note_refused_draws(len(tried), ATTEMPTS)
    if not tried:
        what = "the only point was refused" if refused == 1 else f"all {refused:,} points drawn were refused, the last"
        raise UsageError(f"no trial is possible: {what} because {reason}")
    if plan.search != "grid":
        tell(
            f"ended after {len(tried)} of {plan.num_trials} trials: {count(refused, 'point')} were refused, "
            f"the last because {reason}\nRun the same command to draw others."
        )
    return None


def _drawn(study: Study, plan: Plan, number: int) -> Iterator[dict[str, Value]]:
    """Yield points for the trial with this number; each attempt has a generator of its own."""
    known = optuna.create_study(directions=study.optuna.directions)  # a kill while drawing leaves nothing in the real
    if plan.search == "tpe":
        known.add_trials(study.trials())
    drawn = study.refused_draws(number)
    for attempt in range(ATTEMPTS):
        seed = _seed(plan.search_seed, number, drawn + attempt)
        known.sampler = _tpe(seed) if plan.search == "tpe" and attempt < TPE_ATTEMPTS else RandomSampler(seed)
        trial = known.ask(study.distributions)
        yield {one.name: _rounded(trial.params[one.name], one) for one in plan.space.dimensions}
        known.tell(trial, state=TrialState.FAIL)


def _tpe(seed: int) -> BaseSampler:
    """Return TPE (Bergstra et al., NeurIPS 2011) that takes trials under way for bad ones, so as not to repeat them."""
    return TPESampler(seed=seed, multivariate=True, constant_liar=True)


def _seed(*numbers: int) -> int:
    """Return a well-mixed 32-bit seed: seed 0 of trial 1 is not seed 1 of trial 0."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:4], "big")


def _rounded(value: Value, dimension: Dimension) -> Value:
    """Return a number with few digits, for people to read and type; still inside the range."""
    if not isinstance(value, float) or dimension.step is not None:
        return value
    return min(max(float(f"{value:.{DIGITS}g}"), dimension.low), dimension.high)
