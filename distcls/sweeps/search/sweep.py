"""Runs a sweep: decides which trials there are, has them trained, and learns their results from their folders.

Everything it knows is in the study and in the run folders. So it may be killed at any moment: started again by the same
command, it finds the trials that are under way, waits for those that are being trained, resumes the others, and chooses
the next points as it would have done.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from optuna.trial import TrialState

from distcls.cluster import signals
from distcls.errors import BadDataError, DiskError, DistclsError, MissingInputError, Preempted, UsageError
from distcls.runs.resuming import AlreadyFinished, choose_folder, newest_step
from distcls.runs.status import is_finished, state_of
from distcls.sweeps.search.limits import Networks
from distcls.sweeps.search.local_runs import failure
from distcls.sweeps.search.plan import Plan, Read
from distcls.sweeps.search.points import next_point
from distcls.sweeps.search.reporter import Reporter
from distcls.sweeps.search.space import Point
from distcls.sweeps.search.study import Study, notes_of
from distcls.sweeps.search.trial_run import INTERRUPTED, TrialRun, runs_of_trial

POLL = 0.25
"""Seconds between two looks at the trials."""

WATCH = 2.0
"""Seconds between two looks at what a run has written so far."""

MOST_KILLS = 5
"""A run that is killed so often in a row, without a new checkpoint in between, has failed: perhaps out of memory."""

PATIENCE = 6
"""A run whose status does not change for this many times run.hang_timeout is killed and resumed."""

NO_TRIALS_FAULT: dict[int, type[DistclsError]] = {
    error.exit_code: error for error in (BadDataError, MissingInputError, DiskError)
}
"""What would happen to the next trials, too: it ends the sweep, which can be resumed once it is repaired."""


class Runs(Protocol):
    """Where trials are trained: this machine, or Slurm."""

    slots: int
    """How many runs there may be at once."""

    def release(self, keep: Collection[str]) -> None:
        """Stop runs that a killed sweep left, but those with these names."""
        ...

    def start(self, runs: Sequence[TrialRun]) -> None:
        """Start runs, or adopt those that are being trained already."""
        ...

    def code(self, run: TrialRun) -> int | None:
        """Return the exit code of a run that was started and has ended, INTERRUPTED, or None."""
        ...

    def stop(self, run: TrialRun) -> None:
        """Ask a run to save and stop; does nothing the second time."""
        ...

    def waits(self, run: TrialRun) -> bool:
        """True if a run that was started is kept waiting, and so does not hang."""
        ...

    def kill(self, run: TrialRun) -> None:
        """End a run that hangs."""
        ...

    def last_words(self, run: TrialRun) -> str:
        """Return the last line that a run printed."""
        ...


@dataclass
class Active:
    """A trial that is under way."""

    runs: list[TrialRun]
    waiting: list[TrialRun]
    """Runs to start or to resume, in order."""
    done: dict[str, list[float]] = field(default_factory=dict)
    """The values of the runs that have finished, by name."""

    @property
    def number(self) -> int:
        """Return the trial's number."""
        return self.runs[0].number


class Sweep:
    """A sweep under way."""

    def __init__(self, plan: Plan, study: Study, runs: Runs, read: Read, reporter: Reporter) -> None:
        self.plan, self.study, self.runs, self.read, self.reporter = plan, study, runs, read, reporter
        self.networks = Networks(plan.limits)
        self.active: dict[int, Active] = {}
        self.started: dict[str, TrialRun] = {}
        """The runs that occupy a slot: they are trained, or were asked to stop and have not ended yet."""
        self._kills: dict[str, tuple[int, int]] = {}
        """How often a run was killed at which step."""
        self._seen: dict[str, tuple[float, float]] = {}
        """When a run's status changed: by its own clock, and by ours."""
        self._next_look: dict[str, float] = {}
        self._refusals: dict[str, str | None] = {}
        self._is_exhausted = False
        self._ended_early: list[str] = []
        """Why there are fewer trials than were asked for."""

    def run(self) -> None:
        """Train trials until there are enough. Raises Preempted after a stop signal, once all have saved.

        Raises UsageError if no trial could be trained at all.
        """
        for trial in self.study.trials(TrialState.RUNNING):
            self._activate(trial.number, trial.params)
        self.runs.release([run.name for trial in self.active.values() for run in trial.runs])
        while signals.received() is None:
            self._look()
            self._fill()
            self.reporter.draw(self.study, len(self.started))
            if not self.active and not self.started:
                for sentence in self._ended_early:
                    self.reporter.say(sentence)
                self._refuse_to_have_failed()
                return
            time.sleep(POLL)
        self._stop_all()
        raise Preempted(f"stopped by {signals.received()}; all trials have saved. Run the same command to resume.")

    def _activate(self, number: int, point: Point) -> None:
        """Begin or resume a trial; one whose settings contradict each other fails at once."""
        try:
            runs = runs_of_trial(self.plan, number, point, self.read)
        except UsageError as error:
            self._fail(number, str(error))
            return
        self.active[number] = Active(runs, list(runs))

    # Filling slots --------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Start as many runs as there are free slots: first those of trials that are under way."""
        batch: list[TrialRun] = []
        while len(self.started) < self.runs.slots and signals.received() is None:
            run = self._next_waiting()
            if run is not None and is_finished(run.dir):
                self._take(run)
            elif run is not None:
                self.started[run.name] = run
                batch.append(run)
            elif not self._add_trial():
                break
        for run in batch:  # a status from before says nothing about this start
            self._seen.pop(run.name, None)
        if batch:
            self.runs.start(batch)

    def _next_waiting(self) -> TrialRun | None:
        """Return the next run to start. With a pruner, a trial's first seed is judged before the others start."""
        for trial in self.active.values():
            is_judged = self.plan.pruner is None or trial.done or trial.waiting[:1] == trial.runs[:1]
            if trial.waiting and is_judged:
                return trial.waiting.pop(0)
        return None

    def _take(self, run: TrialRun) -> None:
        """Take the values of a run that had finished before it was started here, if it is the one that was meant."""
        try:
            with contextlib.suppress(AlreadyFinished):
                choose_folder(run.config, run.name)
        except UsageError as error:
            self._fail(run.number, str(error))
            self._drop(self.active[run.number])
            return
        self._finished(self.active[run.number], run)

    def _add_trial(self) -> bool:
        """Add the next trial to the study; return False if there is none."""
        if self._is_exhausted:
            return False
        point = next_point(self.study, self.plan, self._refusal, self._ended_early.append)
        if point is None:
            self._is_exhausted = True
            return False
        trial = self.study.add(point)
        self.reporter.began(trial)
        self._activate(trial.number, point)
        return True

    def _refusal(self, point: Point) -> str | None:
        """Return why there is to be no trial with a point: its network is over a limit."""
        if not self.plan.limits.given():
            return None
        key = repr(point)
        if key not in self._refusals:
            try:
                self._refusals[key] = self.networks.refusal(self.read(self.plan.words(point)))
            except UsageError as error:
                self._refusals[key] = str(error)
        return self._refusals[key]

    # Looking at trials ----------------------------------------------------------------------------

    def _look(self) -> None:
        for run in list(self.started.values()):
            code = self.runs.code(run)
            trial = self.active.get(run.number)
            if code is None:
                self._watch(run, trial)
                continue
            del self.started[run.name]
            if trial is not None:  # not one that was pruned or has failed
                self._ended(trial, run, code)

    def _watch(self, run: TrialRun, trial: Active | None) -> None:
        """Prune a trial that is not worth continuing, and kill a run that hangs."""
        now = time.monotonic()
        if now < self._next_look.get(run.name, 0.0):
            return
        self._next_look[run.name] = now + WATCH
        self._check_val(run)
        if trial is not None and self.plan.pruner is not None and run is trial.runs[0]:
            values = run.curve(self.plan.metric)
            if self.study.report(run.number, values):
                self.study.prune(run.number, seconds=run.seconds())  # before it is stopped: a kill between is harmless
                self.reporter.ended(self.study.trials()[run.number])
                self._drop(trial)
        if self._hangs(run):
            self.runs.kill(run)

    def _check_val(self, run: TrialRun) -> None:
        """Raise UsageError if there are no val images: then no trial will have a value."""
        if run.lacks_val():
            self._stop_all()
            raise UsageError(
                f"{run.dir} has no val images, but a sweep compares its trials by their {self.plan.metric} on val: set "
                "data.val_fraction above 0. To compare variants trained on all images, train each of them with "
                "distcls train, and use distcls compare"
            )

    def _hangs(self, run: TrialRun) -> bool:
        try:
            changed = (run.dir / "status.json").stat().st_mtime
        except OSError:
            return False
        now = time.monotonic()
        if self._seen.get(run.name, (0.0, 0.0))[0] != changed or self.runs.waits(run):
            self._seen[run.name] = changed, now
        return now > self._seen[run.name][1] + PATIENCE * run.config.run.hang_timeout and state_of(run.dir) == "running"

    def _ended(self, trial: Active, run: TrialRun, code: int) -> None:
        if is_finished(run.dir):
            self._finished(trial, run)
        elif code in (INTERRUPTED, Preempted.exit_code, 0):
            self._interrupted(trial, run)
        elif code in NO_TRIALS_FAULT:
            self._stop_all()
            raise NO_TRIALS_FAULT[code](f"{run.dir}: {failure(run, self.runs.last_words(run))}")
        else:
            self._fail(run.number, failure(run, self.runs.last_words(run)))
            self._drop(trial)

    def _finished(self, trial: Active, run: TrialRun) -> None:
        """Note the values of a run; complete the trial with its last one."""
        self._check_val(run)
        values = run.values(self.plan.metric, self.plan.also)
        if values is None:
            wanted = ", ".join([f"{self.plan.metric} on val", *self.plan.also])
            self._fail(trial.number, f"{run.dir} has finished, but not all of {wanted} were measured")
            self._drop(trial)
            return
        if self.plan.pruner is not None and run is trial.runs[0]:
            self.study.report(trial.number, run.curve(self.plan.metric))  # other trials are compared with it
        trial.done[run.name] = values
        if len(trial.done) == len(trial.runs):
            values_by_seed = [trial.done[one.name] for one in trial.runs]
            self.study.complete(trial.number, values_by_seed, seconds=sum(one.seconds() for one in trial.runs))
            del self.active[trial.number]
            self.reporter.ended(self.study.trials()[trial.number])

    def _interrupted(self, trial: Active, run: TrialRun) -> None:
        """Have a run resumed, unless it is killed again and again."""
        step = newest_step(run.dir)
        before = self._kills.get(run.name, (0, step))
        kills = 1 if before[1] != step else before[0] + 1
        self._kills[run.name] = kills, step
        if kills < MOST_KILLS:
            trial.waiting.insert(0, run)
            return
        self._fail(run.number, f"killed {kills} times in a row after step {step:,}: perhaps out of memory")
        self._drop(trial)

    def _fail(self, number: int, reason: str) -> None:
        self.study.fail(number, reason)
        self.reporter.ended(self.study.trials()[number])

    def _drop(self, trial: Active) -> None:
        """Stop what is left of a trial that has ended early."""
        self.active.pop(trial.number, None)
        for run in trial.runs:
            if run.name in self.started:
                self.runs.stop(run)

    # Ending ---------------------------------------------------------------------------------------

    def _stop_all(self) -> None:
        """Ask all runs to stop, and wait until they have: `code` kills those that take too long."""
        self.reporter.stopping(len(self.started))
        for run in self.started.values():
            self.runs.stop(run)
        while self.started:
            for run in list(self.started.values()):
                if self.runs.code(run) is not None:
                    del self.started[run.name]
            time.sleep(POLL)

    def _refuse_to_have_failed(self) -> None:
        failed = self.study.trials(TrialState.FAIL)
        if failed and len(failed) == len(self.study.trials()):
            raise UsageError(
                f"all {len(failed)} trials failed, the last because {notes_of(failed[-1])['reason']}\nTo try again, "
                f"start another sweep with --name NAME, or remove {self.plan.folder}"
            )


def remove_pruned(plan: Plan, study: Study) -> int:
    """Remove the run folders of pruned trials; return their number."""
    pruned = study.trials(TrialState.PRUNED)
    folders = [run_dir for trial in pruned for run_dir in plan.run_dirs(trial.number, trial.params)]
    there = [folder for folder in folders if folder.exists() and state_of(folder) != "running"]
    for folder in there:
        shutil.rmtree(folder)
    return len(there)
