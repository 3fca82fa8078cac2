"""What is said of chance, in sentences that people can check."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from made_runs import make_run, write

from distcls.report.comparison.remarks import ABOUT_WEIGHTS, remarks
from distcls.report.comparison.table import build_table


def make(folder: Path, **wrong: int) -> list[Path]:
    """Runs on 200 images that get the first so many wrong."""
    return [make_run(folder / name, right=np.arange(200) >= number) for name, number in wrong.items()]


def test_a_difference_that_may_be_chance(tmp_path) -> None:
    sentence, about = remarks(build_table(make(tmp_path, a=5, b=2)))
    assert sentence == (
        "b beside a, on the same 200 test images: right on 3 that a gets wrong, wrong on 0 that it gets right. The "
        "difference in accuracy, +1.50 points (95 % interval -0.44 to +3.41), may be chance (McNemar's exact test: "
        "p = 0.25)."
    )
    assert about == ABOUT_WEIGHTS


def test_a_difference_that_is_more_than_chance(tmp_path) -> None:
    sentence, _ = remarks(build_table(make(tmp_path, a=2, b=22)))
    assert "-10.00 points" in sentence and "is more than chance (McNemar's exact test: p < 0.001)" in sentence


def test_several_are_compared_with_the_first_and_adjusted(tmp_path) -> None:
    first, second, about = remarks(build_table(make(tmp_path, a=0, b=6, c=7)))
    assert first.startswith("b beside a") and second.startswith("c beside a") and about == ABOUT_WEIGHTS
    assert "p = 0.031 after Holm's correction for 2 comparisons" in first and "p = 0.031 after" in second


def test_the_same_answers_and_other_images(tmp_path) -> None:
    a, b = make(tmp_path, a=3, b=3)
    other = make_run(tmp_path / "c", right=[1, 0, 1], images="y")
    assert remarks(build_table([a, b, other]))[:2] == [
        "b and a are right on exactly the same of the same 200 test images.",
        "c cannot be compared with a image by image: their test images are not the same.",
    ]
    assert remarks(build_table([a, other])) == [
        "c cannot be compared with a image by image: their test images are not the same."
    ]


def test_groups_are_compared_by_their_means(tmp_path) -> None:
    for name, lr, values in (("x", 1, [0.90, 0.92, 0.91]), ("y", 2, [0.95, 0.97, 0.96]), ("z", 3, [0.85, 0.98])):
        for seed, value in enumerate(values):
            make_run(tmp_path / f"{name}-seed{seed}", f"optim.lr={lr}", f"train.seed={seed}", accuracy=value)
    first, second = remarks(build_table([tmp_path], sort="optim.lr"))
    assert first == (
        "y (3 seeds) beside x (3 seeds): the difference of the means in test accuracy, +5.00 points (95 % interval "
        "+2.73 to +7.27), is more than the seeds explain (Welch's t-test: p = 0.0072 after Holm's correction for 2 "
        "comparisons)."
    )
    assert second.startswith("z (2 seeds) beside x (3 seeds)") and "may be due to the seeds" in second
    seeds = [tmp_path / f"x-seed{seed}" for seed in range(3)]
    assert remarks(build_table(seeds)) == [], "seeds of one recipe are not compared with each other"


def test_groups_are_adjusted_for_being_several(tmp_path) -> None:
    """Alone, x beside base is more than the seeds explain; among three, it no longer is."""
    means = (("base", 1, 0.9), ("x", 2, 0.93), ("y", 3, 0.905), ("z", 4, 0.895))
    for name, lr, mean in means:
        for seed, away in enumerate((-0.01, 0, 0.01)):
            make_run(tmp_path / f"{name}-{seed}", f"optim.lr={lr}", f"train.seed={seed}", accuracy=mean + away)
    baseline = [tmp_path / f"base-{seed}" for seed in range(3)]
    (alone,) = remarks(build_table([*baseline, *(tmp_path / f"x-{seed}" for seed in range(3))]))
    assert "is more than the seeds explain (Welch's t-test: p = 0.021)" in alone
    first, *others = remarks(build_table([*baseline, *sorted(tmp_path.iterdir())]))
    assert first.startswith("x (3 seeds) beside base (3 seeds)") and "(95 % interval +0.73 to +5.27)" in first
    assert "may be due to the seeds (Welch's t-test: p = 0.064 after Holm's correction for 3 comparisons)" in first
    assert len(others) == 2 and all("beside base" in one for one in others), "the runs named first are the baseline"


def test_folds_are_not_called_seeds(tmp_path) -> None:
    for name, lr, values in (("x", 1, [0.90, 0.92, 0.91]), ("y", 2, [0.95, 0.97, 0.96])):
        for fold, value in enumerate(values):
            settings = [f"optim.lr={lr}", "data.folds=3", f"data.fold={fold}"]
            run_dir = make_run(tmp_path / f"{name}-fold{fold}", *settings, accuracy=value)
            prints = {"val": f"v{fold}", "test": "t"}
            write(run_dir, "data_report", {"fingerprint": f"f{fold}", "split_fingerprints": prints})
    (sentence,) = remarks(build_table([tmp_path], sort="optim.lr"))
    assert sentence.startswith("y (3 folds) beside x (3 folds)") and "is more than the folds explain" in sentence
