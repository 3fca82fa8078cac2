"""Repetitions of a recipe are one row; copies, unfinished runs and other recipes are not among them."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from made_runs import make_run, write

from distcls.report.comparison.rows import grouped_rows
from distcls.runs.overview import read_overview


def rows_of(folder: Path) -> dict[str, list[str]]:
    """The names of the rows, and of the runs in each."""
    names = sorted(path.name for path in folder.iterdir())
    rows = grouped_rows([read_overview(folder / name) for name in names], names)
    return {row.name: [run.dir.name for run in row.runs] for row in rows}


def test_runs_that_differ_in_the_seed_are_one_row(tmp_path) -> None:
    for seed in range(3):
        make_run(tmp_path / f"lr1-seed{seed}", f"train.seed={seed}", "optim.lr=1", f"run.name=x{seed}")
    for seed in (0, 1):
        make_run(tmp_path / f"lr2-s{seed}", f"train.seed={seed}", "optim.lr=2", "data.workers=1")
    assert rows_of(tmp_path) == {
        "lr1 (3 seeds)": ["lr1-seed0", "lr1-seed1", "lr1-seed2"],
        "lr2 (2 seeds)": ["lr2-s0", "lr2-s1"],
    }


def test_a_number_of_the_recipe_stays_in_the_name(tmp_path) -> None:
    for lr, names in enumerate((("lr0.1", "lr0.1-b"), ("resnet-18a", "resnet-18b"), ("x-10", "x-11")), start=1):
        for seed, name in enumerate(names):
            make_run(tmp_path / name, f"train.seed={seed}", f"optim.lr={lr}")
    assert list(rows_of(tmp_path)) == ["lr0.1 (2 seeds)", "resnet-18 (2 seeds)", "x (2 seeds)"]


def test_what_is_no_repetition_stays_alone(tmp_path) -> None:
    for name, seed in (("a", 0), ("b", 1), ("copy", 1)):
        make_run(tmp_path / name, f"train.seed={seed}")
    make_run(tmp_path / "other-images", "train.seed=2", images="y")
    make_run(tmp_path / "unfinished", "train.seed=3", state="preempted")
    found = rows_of(tmp_path)
    assert found["a (2 seeds)"] == ["a", "b"], "their names have nothing in common"
    assert set(found) == {"a (2 seeds)", "copy", "other-images", "unfinished"}


def test_copies_of_a_whole_group_are_another_group(tmp_path) -> None:
    for number in range(4):
        make_run(tmp_path / f"digits-{number}", f"train.seed={number % 2}")
    assert rows_of(tmp_path) == {
        "digits (2 seeds)": ["digits-0", "digits-1"],
        "digits-2 (2 seeds)": ["digits-2", "digits-3"],
    }


def test_folds_share_the_test_images_only(tmp_path) -> None:
    for fold in range(3):
        run_dir = make_run(tmp_path / f"cv-fold{fold}", "data.folds=3", f"data.fold={fold}")
        prints = {"val": f"v{fold}", "test": "t"}
        write(run_dir, "data_report", {"fingerprint": f"f{fold}", "split_fingerprints": prints})
    assert list(rows_of(tmp_path)) == ["cv (3 folds)"]


def test_a_group_has_means_and_spreads(tmp_path) -> None:
    values = [0.9, 0.92, 0.97]
    runs = [
        read_overview(make_run(tmp_path / f"s{seed}", f"train.seed={seed}", accuracy=value))
        for seed, value in enumerate(values)
    ]
    (row,) = grouped_rows(runs, ["s0", "s1", "s2"])
    assert row.mean(lambda run: run.metrics["test"]["accuracy"]) == pytest.approx(statistics.fmean(values))
    assert row.spread(lambda run: run.metrics["test"]["accuracy"]) == pytest.approx(statistics.stdev(values))
    assert row.agreed(lambda run: run.config.optim.lr) == 0.002
    assert row.agreed(lambda run: run.config.train.seed) is None
    write(tmp_path / "s1", "metrics", {})
    (row,) = grouped_rows(list(map(read_overview, sorted(tmp_path.iterdir()))), ["s0", "s1", "s2"])
    assert row.mean(lambda run: run.metrics["test"].get("accuracy")) is None, "not the mean of two"
    assert row.spread(lambda run: run.metrics["test"].get("accuracy")) is None
