"""A sweep is resumed as it was, whatever is edited meanwhile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sweeps_of_tests import read

from distcls.errors import UsageError
from distcls.sweeps.search.plan import settle
from distcls.sweeps.search.trial_run import runs_of_trial


def test_trials_have_folders_and_arguments_of_their_own(make_plan) -> None:
    plan = make_plan("optim.lr=0.1,0.2", "train.num_epochs=3", num_seeds=2, first_seed=5)
    point = {"optim.lr": "0.2"}
    assert plan.run_dirs(3, point) == [Path(f"sweeps/s/trial-0003-seed{seed}") for seed in (5, 6)]
    words = plan.words(point, 6, plan.run_dirs(3, point)[1])
    assert words == ["train.num_epochs=3", "optim.lr=0.2", "train.seed=6", 'run.dir="sweeps/s/trial-0003-seed6"']
    assert read(words).optim.lr == 0.2
    variants = make_plan(space="variants: {baseline: {}, dropout: {model.args.dropout: 0.3}}")
    assert variants.run_dirs(1, {"variant": "dropout"}) == [Path("sweeps/s/dropout")], "a table needs no numbers"


def test_trials_use_copies_of_the_config_files(make_plan) -> None:
    for name, lr in (("a.yaml", 0.1), ("b.yaml", 0.2)):
        Path(name).write_text(f"optim: {{lr: {lr}}}\n")
    plan = make_plan(space="variants: {one: {}, two: {config: b.yaml}}", config_file=Path("a.yaml"))
    settled = settle(plan, read, None)
    Path("a.yaml").write_text("optim: {lr: 7}\n")
    assert [read(settled.words({"variant": name})).optim.lr for name in ("one", "two")] == [0.1, 0.2]
    with pytest.raises(UsageError, match=r"optim.lr: 0.1 -> 7"):
        settle(plan, read, None)
    Path("a.yaml").write_text("# a remark\noptim: {lr: 0.10}\n")
    settle(plan, read, None)


def test_a_variant_that_is_right_only_beside_other_values_is_resumed(make_plan) -> None:
    plan = make_plan("optim.name=adamw,sgd", space="variants: {plain: {}, nesterov: {optim.nesterov: true}}")
    settle(plan, read, None)
    settle(plan, read, None)


def test_only_its_size_may_change(make_plan) -> None:
    plan = make_plan("optim.lr=0.1..0.2")
    settle(plan, read, 1)
    again = settle(replace(plan, num_trials=99), read, 4)
    assert read(again.words({"optim.lr": 0.1})).train.num_threads == 1, "it can change results"
    with pytest.raises(UsageError) as raised:
        settle(replace(plan, search_seed=1, metric="loss"), read, None)
    assert "sweeps/s holds a sweep with different settings:\n  search_seed: 0 -> 1\n" in str(raised.value)
    assert "metric: accuracy -> loss" in str(raised.value) and "--name NAME" in str(raised.value)
    with pytest.raises(UsageError, match=r"space: .*0.1..0.2.* -> .*0.1..0.3"):
        settle(make_plan("optim.lr=0.1..0.3"), read, None)


def test_a_seed_that_the_space_sets_is_the_one_that_is_trained(make_plan) -> None:
    def seeds(plan, *points) -> list[int]:
        return [run.config.train.seed for point in points for run in runs_of_trial(plan, 0, point, read)]

    searched = make_plan("train.seed=0,1,2")
    assert seeds(searched, *searched.space.grid()) == [0, 1, 2]
    Path("base.yaml").write_text("train: {seed: 7}\n")
    Path("own.yaml").write_text("train: {seed: 3}\n")
    Path("other.yaml").write_text("optim: {lr: 0.1}\n")
    variants = "variants: {plain: {}, set: {train.seed: 5}, own: {config: own.yaml}, other: {config: other.yaml}}"
    plan = make_plan(space=variants, config_file=Path("base.yaml"), first_seed=7)
    assert seeds(plan, *plan.space.grid()) == [7, 5, 3, 7]
    assert seeds(replace(plan, num_seeds=2), {"variant": "other"}) == [7, 8]
