"""Writes the page of a sweep: its trials, how the best was found, what mattered, and what there was to choose from."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from markupsafe import Markup
from optuna.exceptions import OptunaError
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

from distcls.config.metrics import METRICS
from distcls.config.wording import count
from distcls.report.html.charts import Line, line_chart
from distcls.report.html.page import Section, grid, joined, render, write_page
from distcls.report.html.parallel import Axis, parallel_coordinates
from distcls.report.html.tables import Cell, leading_to, number, table
from distcls.sweeps.search.plan import Plan
from distcls.sweeps.search.results import Row, dimension_titles, rows_of, value_titles
from distcls.sweeps.search.space import text_of
from distcls.sweeps.search.study import Study
from distcls.terminal.columns import clock

FILE = "sweep.html"

LEAST_FOR_IMPORTANCE = 4
"""Finished trials below which nothing can be said of what matters."""

STYLES = {"failed": "bad", "pruned": "dim", "unfinished": "dim"}


def write_sweep_page(study: Study, plan: Plan, commands: Sequence[tuple[str, str]]) -> Path:
    """Write sweep.html and return its path. Raises DiskError."""
    rows = rows_of(study, plan)
    finished = [row for row in rows if row.state == "finished"]
    sections = [Section("Result", _result(plan, rows, commands))]
    if finished:
        sections.append(Section("History", _history(plan, rows), "Each trial in the order in which it began."))
    if plan.also and finished:
        sections.append(_trade_off(plan, finished))
    if len(finished) >= LEAST_FOR_IMPORTANCE and len(plan.space.dimensions) > 1:
        sections += _importance(study, plan)
        sections.append(_parallel(plan, finished))
    sections.append(Section("Trials", _trials(plan, rows)))
    failed = [[row.name, row.reason] for row in rows if row.reason]
    if failed:
        sections.append(Section("Failed", table(["trial", "reason"], failed, sortable=False)))
    path = plan.folder / FILE
    write_page(path, plan.folder.name, sections, _summary(plan, rows), "Sweep")
    return path


def _summary(plan: Plan, rows: Sequence[Row]) -> str:
    searched = ", ".join(one.name for one in plan.space.dimensions)
    seeds = f", each with {plan.num_seeds} seeds" if plan.num_seeds > 1 else ""
    return f"{plan.search} over {searched}: {count(len(rows), 'trial')}{seeds}."


def _result(plan: Plan, rows: Sequence[Row], commands: Sequence[tuple[str, str]]) -> Markup:
    best = next((row for row in rows if row.is_best), None)
    states = {state: sum(row.state == state for row in rows) for state in ("finished", "pruned", "failed")}
    others = ", ".join(f"{n} {state}" for state, n in states.items() if n and state != "finished")
    tiles = [("finished", f"{states['finished']}", others or "none pruned or failed")]
    tiles.append(("training", clock(sum(row.seconds or 0 for row in rows)), "of all trials together"))
    if best is None:
        return render("tiles.html", tiles=tiles)
    values = enumerate(zip(value_titles(plan), best.texts, strict=True))
    tiles = [*[(title, text, "" if i else best.std) for i, (title, text) in values], *tiles]
    point = [[name, text_of(value)] for name, value in best.trial.params.items()]
    return joined(
        [
            render("tiles.html", tiles=tiles),
            Markup("<h3>The best: {}</h3>").format(best.name),
            table(["setting", "value"], point, sortable=False),
            Markup("<h3>Next</h3>"),
            render("commands.html", commands=commands),
        ]
    )


def _history(plan: Plan, rows: Sequence[Row]) -> Markup:
    """Return a chart of the metric of each trial, and of the best so far."""
    known = sorted((row for row in rows if row.values[0] is not None), key=lambda row: row.trial.number)
    finished = [row for row in known if row.state == "finished"]
    pruned = [row for row in known if row.state == "pruned"]
    best = list(accumulate(_numbers(finished, 0), max if plan.better[0] == "higher" else min))
    lines = [
        Line("best so far", [row.trial.number for row in finished], best, 1),
        Line("finished", [row.trial.number for row in finished], _numbers(finished, 0), 0, is_points=True),
        Line("pruned", [row.trial.number for row in pruned], _numbers(pruned, 0), 7, is_points=True),
    ]
    return grid([line_chart(value_titles(plan)[0], lines, METRICS[plan.metric].text, "trial")])


def _trade_off(plan: Plan, finished: Sequence[Row]) -> Section:
    """Return a chart of the metric against each cost."""
    charts = []
    for place, title in enumerate(value_titles(plan)[1:], 1):
        scale = 1000 if plan.also[place - 1] == "latency" else 1
        front = sorted((row for row in finished if row.is_best), key=lambda row: row.values[place] or 0)
        others = [row for row in finished if not row.is_best]
        lines = [
            Line(name, [value * scale for value in _numbers(some, place)], _numbers(some, 0), color, is_points=True)
            for name, some, color in (("best choices", front, 1), ("other trials", others, 0))
        ]
        name = f"{title}, ms" if scale > 1 else title
        charts.append(line_chart(f"{value_titles(plan)[0]} by {title}", lines, METRICS[plan.metric].text, name))
    note = "The best choices are trials that no other beats in everything (the Pareto front)."
    return Section("What there is to choose from", grid(charts), note)


def _importance(study: Study, plan: Plan) -> list[Section]:
    """Return a section on how much of the metric's variance each dimension explains; none if that is unknown."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shares = get_param_importances(
                study.optuna, evaluator=FanovaImportanceEvaluator(seed=0), target=lambda trial: trial.values[0]
            )
    except (OptunaError, ValueError, RuntimeError, ZeroDivisionError):
        return []
    if not shares or not all(map(math.isfinite, shares.values())):
        return []
    rows = [[name, Cell(f"{share:.0%}", share, bar=share)] for name, share in shares.items()]
    note = (
        "How much of the differences between trials each setting explains (fANOVA, Hutter et al. 2014), estimated from "
        f"{count(len(study.trials(TrialState.COMPLETE)), 'finished trial')}."
    )
    return [Section("What mattered", table(["setting", "share"], rows), note)]


def _parallel(plan: Plan, finished: Sequence[Row]) -> Section:
    axes = []
    for dimension in plan.space.dimensions:
        values = [row.trial.params[dimension.name] for row in finished]
        texts = [text_of(value) for value in values]
        places = [dimension.choices.index(value) if dimension.choices else value for value in values]
        axes.append(Axis(dimension.name, places, texts, dimension.choices, dimension.log))
    for place, title in enumerate(value_titles(plan)):
        texts = [row.texts[place] for row in finished]
        axes.append(Axis(title, _numbers(finished, place), texts))
    ranks = [1 - i / max(len(finished) - 1, 1) for i in range(len(finished))]  # rows come with the best first
    best = [row.is_best for row in finished]
    drawn = parallel_coordinates("Parallel coordinates", axes, ranks, best)
    note = "A line for each finished trial, darker the better it is. Move over one to read its values."
    return Section("All settings at once", drawn, note)


def _trials(plan: Plan, rows: Sequence[Row]) -> Markup:
    titles = value_titles(plan)
    has_std = any(row.std for row in rows)
    head = ["trial", "state", titles[0], *(["± std"] if has_std else []), *titles[1:], *dimension_titles(plan), "time"]
    cells = []
    for row in rows:
        values = [number(value, text) for value, text in zip(row.values, row.texts, strict=True)]
        dimensions = [
            Cell(text_of(value), None if isinstance(value, str) else float(value), style="short")
            for name, value in row.trial.params.items()
            if name in dimension_titles(plan)
        ]
        cells.append(
            [
                _link(plan, row),
                Cell(row.state, style="good" if row.is_best else STYLES.get(row.state, "")),
                values[0],
                *([Cell(row.std, style="short")] if has_std else []),
                *values[1:],
                *dimensions,
                number(row.seconds, row.time),
            ]
        )
    return table(head, cells, tall=len(cells) > 25)


def _link(plan: Plan, row: Row) -> Cell:
    """Return the trial's name, which leads to the report of its first run."""
    return leading_to(row.name, plan.run_dirs(row.trial.number, row.trial.params)[0] / "report.html", plan.folder)


def _numbers(rows: Sequence[Row], place: int) -> list[float]:
    return [float(value) for row in rows if (value := row.values[place]) is not None]
