"""Turns the trials of a sweep into rows of text and numbers, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from distcls.config.metrics import METRICS
from distcls.sweeps.search.plan import COSTS, Plan
from distcls.sweeps.search.space import VARIANT, text_of
from distcls.sweeps.search.study import Study, notes_of
from distcls.terminal.columns import clock, three_digits

STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "unfinished",
}


@dataclass(frozen=True)
class Row:
    """A trial."""

    trial: FrozenTrial
    name: str
    state: str
    values: Sequence[float | None]
    """The metric and the costs; of a pruned trial the metric at its last evaluation, and no costs."""
    texts: Sequence[str]
    """The same, for people."""
    std: str
    settings: Sequence[str]
    """The value of each dimension."""
    seconds: float | None
    time: str
    reason: str
    """Why it failed."""
    is_best: bool
    """True for the best trial; with costs, for each that no other beats in everything."""


def rows_of(study: Study, plan: Plan) -> list[Row]:
    """Return a row for each trial: the best first, then those without a final value, by number."""
    best = [trial.number for trial in study.best()]
    higher = plan.better[0] == "higher"

    def order(trial: FrozenTrial) -> tuple[float, ...]:
        if trial.state == TrialState.COMPLETE:
            return 0, -trial.values[0] if higher else trial.values[0], trial.number
        return list(STATES).index(trial.state), trial.number

    return [_row(trial, plan, trial.number in best) for trial in sorted(study.trials(), key=order)]


def dimension_titles(plan: Plan) -> list[str]:
    """Return what to call the dimensions in a table."""
    return [one.name for one in plan.space.dimensions if not _is_the_name(plan)]


def value_titles(plan: Plan) -> list[str]:
    """Return what to call the metric and the costs."""
    return [f"val {METRICS[plan.metric].title}", *(COSTS[name] for name in plan.also)]


def value_text(plan: Plan, index: int, value: float | None) -> str:
    """Return a value of the metric (index 0) or a cost for people."""
    if value is None:
        return ""
    if index == 0:
        return METRICS[plan.metric].text(value)
    if plan.also[index - 1] == "latency":
        return f"{three_digits(value * 1000)} ms"
    return f"{value:,.0f}"


def values_text(plan: Plan, trial: FrozenTrial, after_std: str = "") -> str:
    """Return a finished trial's values with their titles: "val accuracy 93.4% ± 0.5%, parameters 24,000"."""
    values = [value_text(plan, i, value) for i, value in enumerate(trial.values)]
    std = notes_of(trial).get("std")
    values[0] += "" if std is None else f" ± {value_text(plan, 0, std)}{after_std}"
    return ", ".join(f"{title} {text}" for title, text in zip(value_titles(plan), values, strict=True))


def _row(trial: FrozenTrial, plan: Plan, is_best: bool) -> Row:
    notes = notes_of(trial)
    values: list[float | None] = list(trial.values or []) or [None] * (1 + len(plan.also))
    if trial.state == TrialState.PRUNED and trial.intermediate_values:
        values[0] = trial.intermediate_values[max(trial.intermediate_values)]
    std = notes.get("std")
    seconds = notes.get("seconds")
    return Row(
        trial,
        plan.name_of(trial.number, trial.params),
        STATES[trial.state],
        values,
        [value_text(plan, i, value) for i, value in enumerate(values)],
        "" if std is None else f"± {METRICS[plan.metric].text(std)}",
        [] if _is_the_name(plan) else [text_of(trial.params[one.name]) for one in plan.space.dimensions],
        seconds,
        clock(seconds),
        notes.get("reason", ""),
        is_best,
    )


def _is_the_name(plan: Plan) -> bool:
    """True if variants are all there is, which name the trials."""
    return [one.name for one in plan.space.dimensions] == [VARIANT]
