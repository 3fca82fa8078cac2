"""Which points are tried depends on nothing but the space, the seed and what was tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from distcls.errors import UsageError

pytestmark = pytest.mark.extras
optuna = pytest.importorskip("optuna", reason="NO SEARCH IS TESTED: pip install 'distcls[tune]'")

from distcls.sweeps.search.plan import Plan  # noqa: E402
from distcls.sweeps.search.points import next_point  # noqa: E402
from distcls.sweeps.search.study import Study  # noqa: E402

SPACE = ("optim.lr=1e-4..1e-2@log", "augment.mixup=0,0.2", "model.args.width=4..64@step=4")


def points_of(plan: Plan, most: int = 100, refusal: Callable[[Any], str | None] = lambda _: None) -> list[Any]:
    """The points that a sweep tries, opening its study anew for each, as after a kill."""
    found = []
    while len(found) < most and (point := next_point(study := Study(plan), plan, refusal)) is not None:
        trial = study.add(point)
        assert trial.params == point
        study.complete(trial.number, [[float(point.get("optim.lr", 0.5))]])
        found.append(point)
    return found


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_the_same_points_again_and_others_with_another_seed(make_plan, tmp_path, search) -> None:
    runs = [
        points_of(make_plan(*SPACE, folder=tmp_path / name, search=search, num_trials=14, search_seed=seed))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert runs[0] == runs[1] and len(runs[0]) == 14
    assert all(point not in runs[0] for point in runs[2])
    for point in runs[0]:
        assert 1e-4 <= point["optim.lr"] <= 1e-2 and float(f"{point['optim.lr']:.4g}") == point["optim.lr"]
        assert point["augment.mixup"] in ("0", "0.2") and point["model.args.width"] in range(4, 65, 4)


def test_random_points_do_not_depend_on_results(make_plan, tmp_path) -> None:
    plans = [make_plan(*SPACE, folder=tmp_path / name, num_trials=4) for name in "ab"]
    studies = [Study(plan) for plan in plans]
    for number in range(4):
        points = [next_point(study, plan, lambda _: None) for study, plan in zip(studies, plans, strict=True)]
        assert points[0] == points[1]
        studies[0].add(points[0])
        studies[0].complete(number, [[0.5]])
        studies[1].add(points[1])
        studies[1].fail(number, "why not")


def test_tpe_finds_better_points_than_chance(make_plan, tmp_path) -> None:
    means = {}
    for search in ("random", "tpe"):
        plan = make_plan("optim.lr=0..1", folder=tmp_path / search, search=search, num_trials=30)
        means[search] = sum(point["optim.lr"] for point in points_of(plan)[10:]) / 20
    assert means["tpe"] > means["random"] + 0.15, "what is best here is a high rate"


def test_a_grid_comes_in_order_and_ends(make_plan) -> None:
    plan = make_plan("augment.mixup=0,0.2", "optim.lr=0.1,0.2,0.3")
    found = points_of(plan)
    assert found == list(plan.space.grid()) and len(found) == 6


def test_a_grid_of_decimal_steps_is_one_that_the_study_takes(make_plan) -> None:
    plan = make_plan(
        "model.args.dropout=0..0.3@step=0.1", "augment.mixup=0..0.7@step=0.35", search="grid", num_trials=None
    )
    assert len(points_of(plan)) == 12


def test_a_small_space_ends_and_repeats_nothing(make_plan, tmp_path) -> None:
    for search in ("random", "tpe"):
        plan = make_plan(
            "augment.mixup=0,0.2", "augment.flip=true,false", folder=tmp_path / search, search=search, num_trials=9
        )
        found = points_of(plan)
        assert len(found) == 4 and all(point not in found[:i] for i, point in enumerate(found))


def test_points_that_are_refused_cost_no_trial(make_plan, tmp_path) -> None:
    def refusal(point: Any) -> str | None:
        return "it is too wide" if point["model.args.width"] > 8 else None

    for search in ("grid", "random", "tpe"):
        plan = make_plan(
            "model.args.width=4..64@step=4", folder=tmp_path / search, search=search, num_trials=5, num_seeds=1
        )
        assert sorted(point["model.args.width"] for point in points_of(plan, refusal=refusal)) == [4, 8]
    with pytest.raises(
        UsageError, match="no trial is possible: all 16 points drawn were refused, the last because it is wide"
    ):
        plan = make_plan("model.args.width=4..64@step=4", folder=tmp_path / "none", search="grid")
        points_of(plan, refusal=lambda _: "it is wide")


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_a_search_that_ends_early_says_so_and_draws_others_the_next_time(make_plan, search) -> None:
    plan = make_plan("optim.lr=0..1", search=search, num_trials=5)
    study = Study(plan)
    study.complete(study.add({"optim.lr": 0.5}).number, [[0.5]])

    def drawn() -> list[Any]:
        asked, told = [], []
        assert next_point(Study(plan), plan, lambda point: asked.append(point) or "it is slow", told.append) is None
        assert told == [
            f"ended after 1 of 5 trials: {len(asked)} points were refused, the last because it is slow\n"
            "Run the same command to draw others."
        ]
        return asked

    first, second = drawn(), drawn()
    assert len(first) > 290 and sum(point in first for point in second) < 100, "there are 10,000"


def test_tpe_weighs_costs_too(make_plan, tmp_path) -> None:
    plan = make_plan("model.args.width=1..100", search="tpe", num_trials=40, also=("parameters",))
    widths = []
    while (point := next_point(study := Study(plan), plan, lambda _: None)) is not None:
        width = float(point["model.args.width"])
        study.complete(study.add(point).number, [[min(width, 30.0), width]])
        widths.append(width)
    assert sum(width <= 40 for width in widths[15:]) > 15, "wider than 30 only costs more"
