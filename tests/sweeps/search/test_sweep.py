"""A sweep ends with the same results however often it is killed, and trains no run twice at once.

Its trials are not trained here: what a run would leave in its folder is written in a moment. Real ones are in
end_to_end/test_sweep.py.
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
from made_runs import make_run, write
from sweeps_of_tests import read

from distcls.cluster import signals
from distcls.errors import BadDataError, Preempted, UsageError

pytestmark = pytest.mark.extras
optuna = pytest.importorskip("optuna", reason="NO SEARCH IS TESTED: pip install 'distcls[tune]'")

from optuna.trial import TrialState  # noqa: E402

from distcls.sweeps.search import points  # noqa: E402
from distcls.sweeps.search import sweep as sweep_module  # noqa: E402
from distcls.sweeps.search.plan import Limits, Plan  # noqa: E402
from distcls.sweeps.search.reporter import Reporter  # noqa: E402
from distcls.sweeps.search.study import Study  # noqa: E402
from distcls.sweeps.search.sweep import MOST_KILLS, Sweep, remove_pruned  # noqa: E402
from distcls.sweeps.search.trial_run import INTERRUPTED, TrialRun, runs_of_trial  # noqa: E402


class Killed(BaseException):
    """kill -9 of the sweep."""


class MadeRuns:
    """Runs that take a few looks, and then have the accuracy of their learning rate; some end otherwise."""

    def __init__(self, slots: int = 1, draw: random.Random | None = None, **ends: int) -> None:
        self.slots, self.draw, self.ends = slots, draw, ends
        self.under_way: dict[str, int] = {}
        self.starts: Counter[str] = Counter()
        self.most_at_once = 0
        self.stopped: list[str] = []
        self.hung: set[str] = set()

    def release(self, keep: Collection[str]) -> None:
        assert not self.under_way

    def start(self, runs: Sequence[TrialRun]) -> None:
        for run in runs:
            assert run.name not in self.under_way, "it is trained already"
            self._perhaps_die()
            self.under_way[run.name] = 0
            self.starts[run.name] += 1
            run.dir.mkdir(exist_ok=True)
            self._perhaps_die()
        self.most_at_once = max(self.most_at_once, len(self.under_way))

    def code(self, run: TrialRun) -> int | None:
        self._perhaps_die()
        if run.name in self.stopped:
            del self.under_way[run.name]
            return INTERRUPTED
        self.under_way[run.name] += 1
        write_curve(run, self.under_way[run.name])
        if self.under_way[run.name] < 4 or run.name in self.hung:
            return None
        del self.under_way[run.name]
        code = self.ends.get(run.name.replace("-", "_"), 0)
        if code == 0:
            finish(run)
        self._perhaps_die()
        return code

    def stop(self, run: TrialRun) -> None:
        self.stopped.append(run.name)

    def waits(self, run: TrialRun) -> bool:
        return False

    def kill(self, run: TrialRun) -> None:
        self.hung.discard(run.name)

    def last_words(self, run: TrialRun) -> str:
        return f"distcls: error: {run.name} cannot be trained"

    def _perhaps_die(self) -> None:
        if self.draw is not None and self.draw.random() < 0.12:
            raise Killed


def value_of(run: TrialRun) -> float:
    return run.config.optim.lr + run.config.train.seed / 100


def write_curve(run: TrialRun, length: int) -> None:
    rows = [f"t,{place},{place},val,{value_of(run) * place / 4}" for place in range(1, length + 1)]
    (run.dir / "metrics.csv").write_text("\n".join(["time,step,epoch,split,accuracy", *rows]) + "\n")


def finish(run: TrialRun) -> None:
    write(run.dir, "metrics", {"val": {"accuracy": value_of(run)}})
    write(run.dir, "explained", {"model": {"parameters": 10 + run.number, "latency_seconds": {"1": 0.001}}})
    write(run.dir, "status", {"state": "finished", "seconds": 2.0})


def sweep_of(plan: Plan, runs: Any) -> tuple[Sweep, Study]:
    study = Study(plan)
    return Sweep(plan, study, runs, read, Reporter(plan)), study


def run_sweep(plan: Plan, runs: Any) -> Study:
    sweep, study = sweep_of(plan, runs)
    sweep.run()
    return study


def results(study: Study) -> list[tuple]:
    return [(trial.number, trial.state, trial.values, trial.params) for trial in study.trials()]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(sweep_module, "POLL", 0)
    monkeypatch.setattr(sweep_module, "WATCH", 0)


GRID = ("optim.lr=0.1,0.2,0.3", "augment.mixup=0,0.2")


def test_a_grid_at_several_seeds(make_plan) -> None:
    runs = MadeRuns(slots=3)
    study = run_sweep(make_plan(*GRID, num_seeds=2), runs)
    assert [trial.values[0] for trial in study.trials()] == pytest.approx([0.105, 0.105, 0.205, 0.205, 0.305, 0.305])
    assert set(runs.starts.values()) == {1} and len(runs.starts) == 12 and runs.most_at_once == 3
    assert study.trials()[0].user_attrs == {
        "by_seed": [0.1, 0.11],
        "std": pytest.approx(0.01 / 2**0.5),
        "seconds": 4.0,
    }


@pytest.mark.parametrize("search", ["grid", "random"])
def test_a_sweep_that_is_killed_again_and_again_ends_with_the_results_of_one_left_alone(make_plan, tmp_path, search):
    values = {"search": search, "num_trials": 6, "num_seeds": 2}
    space = GRID if search == "grid" else ("optim.lr=0.1..0.9", "augment.mixup=0,0.2")
    alone = results(run_sweep(make_plan(*space, folder=tmp_path / "alone", **values), MadeRuns()))
    draw = random.Random(search)
    plan, kills = make_plan(*space, folder=tmp_path / "killed", **values), 0
    starts: Counter[str] = Counter()
    while True:
        runs = MadeRuns(slots=2, draw=draw)
        try:
            study = run_sweep(plan, runs)
        except Killed:
            kills += 1
            starts += runs.starts
            continue
        break
    assert kills >= 5 and results(study) == alone
    assert max(starts.values()) <= kills + 1


def test_a_finished_sweep_starts_nothing_and_may_be_made_longer(make_plan) -> None:
    plan = make_plan("optim.lr=0.1..0.9", num_trials=3)
    first = results(run_sweep(plan, MadeRuns()))
    runs = MadeRuns()
    assert results(run_sweep(plan, runs)) == first and not runs.starts
    longer = results(run_sweep(make_plan("optim.lr=0.1..0.9", num_trials=5), runs))
    assert longer[:3] == first and len(runs.starts) == 2


def test_a_trial_that_fails_is_recorded_and_the_others_are_trained(make_plan) -> None:
    study = run_sweep(make_plan("optim.lr=0.1,0.2,0.3"), MadeRuns(trial_0001=70))
    assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    assert study.trials()[1].user_attrs["reason"] == "trial-0001 cannot be trained"


class WithoutVal(MadeRuns):
    """Runs that use all images for training."""

    def start(self, runs: Sequence[TrialRun]) -> None:
        super().start(runs)
        for run in runs:
            write(run.dir, "data_report", {"splits": {"train": {}, "test": {}}})


def test_runs_without_val_images_end_the_sweep_before_they_are_trained(make_plan) -> None:
    plan, runs = make_plan("optim.lr=0.1,0.2,0.3", num_seeds=2), WithoutVal(slots=2)
    with pytest.raises(UsageError, match="trial-0000-seed0 has no val images.*accuracy on val: set data.val_fraction"):
        run_sweep(plan, runs)
    assert len(runs.starts) == 2 and not runs.under_way and not list(plan.folder.glob("*/metrics.json"))


def test_settings_that_contradict_each_other_fail_without_a_process(make_plan) -> None:
    runs = MadeRuns()
    study = run_sweep(make_plan("loss.name=cross_entropy,focal", "loss.gamma=1,3"), runs)
    assert [trial.state for trial in study.trials()] == [TrialState.FAIL] * 2 + [TrialState.COMPLETE] * 2
    assert "loss.gamma" in study.trials()[0].user_attrs["reason"] and len(runs.starts) == 2


def test_if_all_fail_the_sweep_fails(make_plan) -> None:
    with pytest.raises(UsageError, match="all 2 trials failed, the last because trial-0001 cannot be trained"):
        run_sweep(make_plan("optim.lr=0.1,0.2"), MadeRuns(trial_0000=71, trial_0001=70))


def test_what_is_no_trials_fault_ends_the_sweep_and_is_tried_again(make_plan) -> None:
    plan = make_plan("optim.lr=0.1,0.2,0.3")
    with pytest.raises(BadDataError, match="sweeps/s/trial-0001: trial-0001 cannot be trained"):
        run_sweep(plan, MadeRuns(trial_0001=65))
    assert [trial.state for trial in run_sweep(plan, MadeRuns()).trials()] == [TrialState.COMPLETE] * 3


def test_a_run_that_is_killed_is_resumed_but_not_for_ever(make_plan) -> None:
    runs = MadeRuns(trial_0001=INTERRUPTED)
    study = run_sweep(make_plan("optim.lr=0.1,0.2,0.3"), runs)
    assert runs.starts["trial-0001"] == MOST_KILLS and runs.starts["trial-0002"] == 1
    assert "killed 5 times in a row after step 0" in study.trials()[1].user_attrs["reason"]


def test_a_run_that_makes_progress_may_be_killed_more_often(make_plan, monkeypatch) -> None:
    steps = iter(range(100))
    monkeypatch.setattr(sweep_module, "newest_step", lambda _: next(steps))
    runs = MadeRuns(trial_0000=INTERRUPTED)
    sweep, study = sweep_of(make_plan("optim.lr=0.1,0.2"), runs)
    runs.start = lambda runs_: (
        MadeRuns.start(runs, runs_)
        or (  # type: ignore[method-assign]
            runs.ends.clear() if runs.starts["trial-0000"] > 2 * MOST_KILLS else None
        )
    )
    sweep.run()
    assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE] * 2


def test_a_signal_stops_all_runs_and_the_same_command_resumes(make_plan, monkeypatch) -> None:
    plan, runs = make_plan("optim.lr=0.1,0.2,0.3,0.4"), MadeRuns(slots=2)
    looks = iter(range(1000))
    monkeypatch.setattr(signals, "received", lambda: "SIGINT" if next(looks) > 7 else None)
    with pytest.raises(Preempted, match=r"stopped by SIGINT; all trials have saved. Run the same command to resume"):
        run_sweep(plan, runs)
    assert len(runs.stopped) == 2 and not runs.under_way
    monkeypatch.setattr(signals, "received", lambda: None)
    assert [trial.state for trial in run_sweep(plan, MadeRuns()).trials()] == [TrialState.COMPLETE] * 4


def test_pruning_stops_a_trial_and_leaves_its_folder_until_it_is_removed(make_plan) -> None:
    rates = ",".join(f"0.{rate}" for rate in (5, 6, 7, 8, 9, 2))
    plan, runs = make_plan(f"optim.lr={rates}", pruner="median", num_seeds=2), MadeRuns()
    study = run_sweep(plan, runs)
    pruned = study.trials()[5]
    assert pruned.state == TrialState.PRUNED and runs.stopped == ["trial-0005-seed0"]
    assert "trial-0005-seed1" not in runs.starts, "the first seed is judged before the others are trained"
    assert [trial.state for trial in study.trials()[:5]] == [TrialState.COMPLETE] * 5
    assert json.loads((plan.folder / "trial-0000-seed0" / "status.json").read_text())["state"] == "finished"
    assert remove_pruned(plan, study) == 1
    assert not (plan.folder / "trial-0005-seed0").exists() and (plan.folder / "trial-0004-seed1").exists()
    assert results(run_sweep(plan, MadeRuns())) == results(study)


def test_others_are_compared_with_whole_curves_even_of_runs_that_nobody_watched(make_plan) -> None:
    plan = make_plan("optim.lr=0.1,0.2", pruner="median")
    Study(plan).add({"optim.lr": "0.1"})
    (run,) = runs_of_trial(plan, 0, {"optim.lr": "0.1"}, read)
    run.dir.mkdir()
    write_curve(run, 4)  # the sweep was killed, and the run finished
    finish(run)
    runs = MadeRuns()
    study = run_sweep(plan, runs)
    assert "trial-0000" not in runs.starts
    assert [list(trial.intermediate_values) for trial in study.trials()] == [[1, 2, 3, 4]] * 2


def test_a_search_that_ends_early_says_so(make_plan, monkeypatch, capsys) -> None:
    plan = make_plan("optim.lr=0.1..0.9", limits=Limits(parameters=10))
    sweep, study = sweep_of(plan, MadeRuns())
    monkeypatch.setattr(sweep.networks, "refusal", lambda _: "it is large" if study.trials() else None)
    monkeypatch.setattr(points, "ATTEMPTS", 9)
    sweep.run()
    assert "ended after 1 of 8 trials: 9 points were refused, the last because it is large" in (
        " ".join(capsys.readouterr().out.split())
    )


def test_a_run_that_hangs_is_killed_and_resumed(make_plan, monkeypatch) -> None:
    runs = MadeRuns()
    runs.hung.add("trial-0000")
    times = iter(range(0, 10**9, 100))
    monkeypatch.setattr(sweep_module.time, "monotonic", lambda: next(times))
    monkeypatch.setattr(sweep_module, "state_of", lambda _: "running")
    plan = make_plan("optim.lr=0.1,0.2")
    (plan.folder / "trial-0000").mkdir()
    write(plan.folder / "trial-0000", "status", {"state": "running"})
    assert [trial.state for trial in run_sweep(plan, runs).trials()] == [TrialState.COMPLETE] * 2


def test_a_sweep_whose_folder_was_renamed_goes_on(make_plan) -> None:
    plan = make_plan("optim.lr=0.1,0.2")
    run_sweep(plan, MadeRuns())
    renamed = plan.folder.rename(plan.folder.with_name("other"))
    runs = MadeRuns()
    assert len(run_sweep(dataclasses.replace(plan, folder=renamed), runs).trials()) == 2 and not runs.starts


def test_costs_come_from_the_run_folder(make_plan) -> None:
    study = run_sweep(make_plan("optim.lr=0.1,0.2", also=("parameters", "latency")), MadeRuns())
    assert [trial.values for trial in study.trials()] == [[0.1, 10, 0.001], [0.2, 11, 0.001]]
    assert [trial.number for trial in study.best()] == [1, 0]


def test_a_run_without_what_is_asked_for_fails(make_plan) -> None:
    with pytest.raises(UsageError, match="has finished, but not all of accuracy on val, flops were measured"):
        run_sweep(make_plan("optim.lr=0.1,0.2", also=("flops",)), MadeRuns())


def test_a_folder_that_was_removed_is_trained_again_only_if_its_trial_has_not_ended(make_plan) -> None:
    plan = make_plan("optim.lr=0.1,0.2")
    run_sweep(plan, MadeRuns())
    shutil.rmtree(Path(plan.folder) / "trial-0000")
    runs = MadeRuns()
    run_sweep(plan, runs)
    assert not runs.starts


def test_a_folder_with_another_run_is_not_taken_for_the_trial(make_plan) -> None:
    plan = make_plan("optim.lr=0.1,0.2")
    make_run(plan.folder / "trial-0001", "optim.lr=0.7")
    study = run_sweep(plan, MadeRuns())
    assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE, TrialState.FAIL]
    assert "optim.lr: 0.7 -> 0.2" in study.trials()[1].user_attrs["reason"]


def test_points_are_drawn_and_networks_built_once(make_plan, monkeypatch) -> None:
    asked: list[Any] = []
    plan = make_plan("model.args.hidden=4,8,512", "optim.lr=0.1,0.2", limits=Limits(parameters=10_000))
    sweep, study = sweep_of(plan, MadeRuns(slots=9))

    def refusal(config: Any) -> str | None:
        asked.append(config)
        return "too wide" if config.model.args["hidden"] > 8 else None

    monkeypatch.setattr(sweep.networks, "refusal", refusal)
    sweep.run()
    assert len(asked) == 6 and [trial.state for trial in study.trials()] == [TrialState.COMPLETE] * 4
