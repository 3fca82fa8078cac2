"""The study survives kills, and is one that Optuna's own tools read."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.extras
optuna = pytest.importorskip("optuna", reason="NO SEARCH IS TESTED: pip install 'distcls[tune]'")

from optuna.storages.journal import JournalFileBackend, JournalStorage  # noqa: E402

from distcls.sweeps.search.study import FILE, Study  # noqa: E402


def test_a_kill_in_any_byte_of_a_write_leaves_a_study_that_opens(make_plan) -> None:
    plan = make_plan("optim.lr=0.1..0.2")
    study = Study(plan)
    study.complete(study.add({"optim.lr": 0.11}).number, [[0.5], [0.7]], seconds=3)
    before = (plan.folder / FILE).read_bytes()
    study.add({"optim.lr": 0.12})
    after = (plan.folder / FILE).read_bytes()
    for length in range(len(before), len(after)):
        (plan.folder / FILE).write_bytes(after[:length])
        trials = Study(plan).trials()
        assert [trial.number for trial in trials] == [0] and trials[0].values == [pytest.approx(0.6)]
    study = Study(plan)
    assert study.add({"optim.lr": 0.13}).number == 1


def test_means_over_seeds_and_what_is_best(make_plan) -> None:
    study = Study(make_plan("optim.lr=0.1,0.2,0.3,0.4", num_seeds=2, also=("parameters",)))
    results = [([0.5, 0.7], 10.0), ([0.8, 0.8], 20.0), ([0.7, 0.7], 30.0)]
    for rate, (by_seed, cost) in zip(("0.1", "0.2", "0.3"), results, strict=True):
        number = study.add({"optim.lr": rate}).number
        study.complete(number, [[value, cost] for value in by_seed])
    study.fail(study.add({"optim.lr": "0.4"}).number, "it diverged")
    assert [trial.number for trial in study.best()] == [1, 0], "the third is worse and larger than the second"
    first, *_, last = study.trials()
    assert first.values == [pytest.approx(0.6), 10] and first.user_attrs["std"] == pytest.approx(0.02**0.5)
    assert first.user_attrs["by_seed"] == [0.5, 0.7] and last.user_attrs["reason"] == "it diverged"


def test_lower_may_be_better(make_plan) -> None:
    study = Study(make_plan("optim.lr=0.1,0.2", metric="loss"))
    for rate, loss in (("0.1", 0.5), ("0.2", 0.3)):
        study.complete(study.add({"optim.lr": rate}).number, [[loss]])
    assert [trial.number for trial in study.best()] == [1]


def test_other_tools_read_it(make_plan) -> None:
    plan = make_plan("optim.lr=1e-4..1e-2@log", "augment.mixup=0,0.2", num_trials=3)
    study = Study(plan)
    study.complete(study.add({"optim.lr": 1e-3, "augment.mixup": "0.2"}).number, [[0.9]])
    opened = optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(str(plan.folder / FILE))))
    assert opened.best_params == {"optim.lr": 1e-3, "augment.mixup": "0.2"} and opened.best_value == 0.9


def test_a_trial_that_is_worse_than_others_by_then_is_not_worth_continuing(make_plan) -> None:
    study = Study(make_plan("optim.lr=0.1..0.2", pruner="median"))
    for place in range(5):
        number = study.add({"optim.lr": 0.1 + place / 100}).number
        assert not any(study.report(number, [0.5, 0.6, 0.7][:n]) for n in (1, 2, 3)), "with whom to compare?"
        study.complete(number, [[0.7]])
    bad, good = (study.add({"optim.lr": rate}).number for rate in (0.16, 0.17))
    assert study.report(bad, [0.3]) and not study.report(good, [0.55])
    study.prune(bad)
    assert not study.report(good, [0.55]), "nothing new"
    assert study.report(good, [0.55, float("nan"), 0.2]), "a loss may be infinite for a moment"
    assert study.trials()[bad].state == optuna.trial.TrialState.PRUNED


def test_hyperband_ends_bad_trials_early_too(make_plan) -> None:
    study = Study(make_plan("optim.lr=0..1", pruner="hyperband"))
    ended = 0
    for place in range(30):
        value = 1 - place / 30
        number = study.add({"optim.lr": place / 100}).number
        if any(study.report(number, [value] * length) for length in range(1, 10)):
            study.prune(number)
            ended += 1
        else:
            study.complete(number, [[value]])
    assert 5 < ended < 29 and study.best()[0].number == 0
