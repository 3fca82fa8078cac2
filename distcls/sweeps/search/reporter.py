"""Shows a sweep on the terminal: a line for each trial as it begins and ends, and a table at the end."""

from __future__ import annotations

import sys
import time

from optuna.trial import FrozenTrial, TrialState

from distcls.config.wording import count
from distcls.sweeps.search.plan import Plan
from distcls.sweeps.search.results import Row, dimension_titles, rows_of, value_text, value_titles, values_text
from distcls.sweeps.search.space import text_of
from distcls.sweeps.search.study import Study, notes_of
from distcls.terminal.columns import clock, lay_out
from distcls.terminal.screens import Field, open_screen

MOST_ROWS = 30
"""Trials in the table at the end; the page has all."""

STYLES = {"failed": "red", "pruned": "dim", "unfinished": "yellow"}


class Reporter:
    """Prints what a sweep does."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.screen = open_screen(sys.stdout)
        self._began = time.monotonic()
        self._next_drawing = 0.0

    def header(self, study: Study) -> None:
        """Print what the sweep is about."""
        plan = self.plan
        lines = [
            ("search", f"{plan.search}: {self._length()}"),
            ("best", " and ".join(self._goals())),
            *[("space" if i == 0 else "", line) for i, line in enumerate(self._dimensions())],
            *(
                [("limits", ", ".join(f"{k} ≤ {v:g}" for k, v in plan.limits.given().items()))]
                if plan.limits.given()
                else []
            ),
            *([("pruner", plan.pruner)] if plan.pruner else []),
            ("folder", str(plan.folder)),
        ]
        for title, text in lines:
            self.screen.say(f"{title:<8}{text}", label_width=8)
        trials = study.trials()
        if trials:
            ended = len([trial for trial in trials if trial.state.is_finished()])
            self.screen.say(f"resumed with {count(len(trials), 'trial')}, of which {ended} have ended", "yellow")
        self.screen.say("")

    def began(self, trial: FrozenTrial) -> None:
        """Print that a trial begins."""
        self.screen.say(f"{self._name(trial)} begins: {self._point(trial)}", "dim")

    def ended(self, trial: FrozenTrial) -> None:
        """Print how a trial ended."""
        name, notes = self._name(trial), notes_of(trial)
        if trial.state == TrialState.COMPLETE:
            self.screen.say(f"{name}: {values_text(self.plan, trial)}, {clock(notes.get('seconds'))}")
        elif trial.state == TrialState.PRUNED:
            self.screen.say(f"{name}: pruned after {count(len(trial.intermediate_values), 'evaluation')}", "dim")
        else:
            self.screen.say(f"{name} failed: {notes.get('reason')}", "red")

    def draw(self, study: Study, num_running: int) -> None:
        """Redraw the live line, on a terminal."""
        every = self.screen.seconds_between_drawings
        if every is None or time.monotonic() < self._next_drawing:
            return
        self._next_drawing = time.monotonic() + max(every, 1.0)
        best = study.best()
        ended = len([trial for trial in study.trials() if trial.state.is_finished()])
        fields = [Field(0, "ended", f"{ended}"), Field(1, "running", f"{num_running}")]
        if best:
            fields.append(Field(2, "best", value_text(self.plan, 0, best[0].values[0])))
        self.screen.draw([*fields, Field(3, "time", clock(time.monotonic() - self._began))])

    def stopping(self, num_running: int) -> None:
        """Print that trials are asked to stop."""
        self.screen.clear()
        if num_running:
            self.screen.say(f"stopping {count(num_running, 'run')}, which will save", "yellow")

    def table(self, study: Study) -> None:
        """Print all trials, the best first."""
        self.screen.clear()
        rows = rows_of(study, self.plan)
        titles = value_titles(self.plan)
        has_std = any(row.std for row in rows)
        head = ["trial", "state", *dimension_titles(self.plan), titles[0], *(["std"] if has_std else []), *titles[1:]]
        cells = [
            [
                row.name,
                row.state,
                *row.settings,
                row.texts[0],
                *([row.std] if has_std else []),
                *row.texts[1:],
                row.time,
            ]
            for row in rows[:MOST_ROWS]
        ]
        num_texts = 2 + len(dimension_titles(self.plan))
        self.screen.say("")
        title, *lines = lay_out([*head, "time"], cells, num_texts, self.screen.width)
        self.screen.say(title, "bold")
        for row, line in zip(rows, lines, strict=False):
            self.screen.say(line, self._style(row))
        if len(rows) > MOST_ROWS:
            self.screen.say(f"and {len(rows) - MOST_ROWS} more, on the page")
        for row in [row for row in rows if row.reason][:MOST_ROWS]:
            self.screen.say(f"{row.name} failed: {row.reason}", "red")

    def _style(self, row: Row) -> str:
        return "green" if row.is_best else STYLES.get(row.state, "")

    def say(self, text: str) -> None:
        """Print a line."""
        self.screen.clear()
        self.screen.say(text)

    def _length(self) -> str:
        num = "all points" if self.plan.num_trials is None else count(self.plan.num_trials, "trial")
        seeds = f", each with {self.plan.num_seeds} seeds" if self.plan.num_seeds > 1 else ""
        return f"{num}{seeds}"

    def _goals(self) -> list[str]:
        titles = value_titles(self.plan)
        return [f"{better} {title}" for title, better in zip(titles, self.plan.better, strict=True)]

    def _dimensions(self) -> list[str]:
        found = [(one.name, one.described()) for one in self.plan.space.dimensions]
        return [f"{name}: {', '.join(text) if isinstance(text, list) else text}" for name, text in found]

    def _name(self, trial: FrozenTrial) -> str:
        return self.plan.name_of(trial.number, trial.params)

    def _point(self, trial: FrozenTrial) -> str:
        return " ".join(f"{name}={text_of(value)}" for name, value in trial.params.items())
