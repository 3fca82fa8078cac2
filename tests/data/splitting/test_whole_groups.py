"""No group is cut, whatever is cut from what; and where that leaves nothing, the message says what to type."""

from __future__ import annotations

import re

import numpy as np
import pytest

from distcls.config.settings import DataConfig
from distcls.data.sources.image_set import Groups
from distcls.data.splitting.cut import cut_splits
from distcls.errors import UsageError

NAMES = ["ant", "bee", "cat"]


def grouped(sizes: list[int], labels: list[int]) -> tuple[dict[str, np.ndarray], dict[str, Groups]]:
    """A training set of groups of these sizes, each of one class."""
    of = np.repeat(np.arange(len(sizes)), sizes)
    return {"train": np.array(labels)[of]}, {"train": Groups([f"p{i:03}" for i in range(len(sizes))], of)}


def many(num_groups: int = 60) -> tuple[dict[str, np.ndarray], dict[str, Groups]]:
    draw = np.random.default_rng(num_groups)
    return grouped(draw.integers(1, 12, num_groups).tolist(), (np.arange(num_groups) % 3).tolist())


def config(**settings) -> DataConfig:
    return DataConfig(name="folder", groups=r"(p\d+)", **settings)


def test_no_group_is_in_two_splits() -> None:
    labels, groups = many()
    cuts = cut_splits(labels, config(), NAMES, groups)
    assert list(cuts) == ["train", "val", "test"]
    assert np.array_equal(np.sort(np.concatenate([rows for _, rows in cuts.values()])), np.arange(len(labels["train"])))
    of_splits = [set(groups["train"].of[rows]) for _, rows in cuts.values()]
    assert sum(map(len, of_splits)) == len(set.union(*of_splits)) == 60
    assert len(cuts["test"][1]) / len(labels["train"]) == pytest.approx(0.2, abs=0.01)
    assert len(cuts["val"][1]) / len(labels["train"]) == pytest.approx(0.08, abs=0.01)
    assert all(np.all(np.diff(rows) > 0) for _, rows in cuts.values())
    other = cut_splits(labels, config(split_seed=1), NAMES, groups)
    assert set(other["test"][1]) != set(cuts["test"][1])


@pytest.mark.parametrize("test_fraction", [0, 0.2])
def test_each_group_is_val_in_one_fold(test_fraction: float) -> None:
    labels, groups = many()
    cuts = [
        cut_splits(labels, config(folds=4, fold=fold, test_fraction=test_fraction), NAMES, groups) for fold in range(4)
    ]
    vals = [set(groups["train"].of[cut["val"][1]]) for cut in cuts]
    tests = [set(groups["train"].of[cut["test"][1]]) if test_fraction else set() for cut in cuts]
    assert all(test == tests[0] for test in tests)
    assert sum(map(len, vals)) == 60 - len(tests[0]) and set.union(*vals) == set(range(60)) - tests[0]
    for cut, val in zip(cuts, vals, strict=True):
        assert not val & set(groups["train"].of[cut["train"][1]])


def test_only_what_is_missing_is_cut() -> None:
    labels, groups = many()
    labels["test"], groups["test"] = np.zeros(3, np.int64), Groups(["p000", "x"], np.array([0, 0, 1]))
    cuts = cut_splits(labels, config(), NAMES, groups)
    assert {name: source for name, (source, _) in cuts.items()} == {"train": "train", "val": "train", "test": "test"}
    assert list(cut_splits(labels, config(val_fraction=0), NAMES, groups)) == ["train", "test"]


def test_groups_cannot_be_forgotten() -> None:
    with pytest.raises(AssertionError):
        cut_splits(many()[0], config(), NAMES)


def message(sizes: list[int], labels: list[int], **settings) -> str:
    made = grouped(sizes, labels)
    with pytest.raises(UsageError) as caught:
        cut_splits(made[0], config(**settings), NAMES, made[1])
    return str(caught.value)


def test_more_folds_than_groups() -> None:
    told = message([4] * 6, [0, 0, 1, 1, 2, 2], folds=7, fold=0, test_fraction=0)
    assert told == (
        r"data.folds=7 is more than the 6 groups that data.groups='(p\d+)' finds: some folds would be empty. "
        "Use data.folds=6 or fewer"
    )
    told = message([4] * 10, [0] * 5 + [1] * 5, folds=9, fold=0)
    assert "than the 8 groups that" in told and "finds once the test images are held out: some folds" in told


def test_a_class_in_one_group_cannot_be_in_folds() -> None:
    told = message([4] * 6, [0, 0, 0, 2, 2, 1], folds=2, fold=1, test_fraction=0)
    assert "needs at least 2 groups of each class, but the class bee has only 1 group: the fold with that group" in told
    assert told.endswith("add images of other groups, leave the class out")
    told = message([4] * 7, [0, 0, 0, 1, 2, 2, 2], folds=2, fold=1, test_fraction=0.15)
    assert told.endswith("add images of other groups, leave the class out"), "test took images of other classes"
    told = message([4] * 6, [2, 0, 2, 1, 0, 1], folds=2, fold=1)
    assert "ant has only 1 group once the test images are held out: the" in told
    assert told.endswith("add images of other groups, leave the class out, or set data.test_fraction=0")
    told = message([4] * 4, [0, 1, 2, 2], folds=2, fold=0, test_fraction=0)
    assert "the classes ant, bee have only 1 group each: the fold" in told
    labels, groups = grouped([4] * 6, [0, 0, 0, 2, 2, 1])
    assert cut_splits(labels, config(folds=2, fold=1, test_fraction=0), (), groups)  # somebody who only counts


@pytest.mark.parametrize("sizes", [[10] * 3, [100, 90, 80, 70, 60], [50, 3, 40], [1, 1, 1], [30] * 8])
@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.1, 0.2])
def test_what_the_message_says_about_an_empty_split_works(sizes: list[int], fraction: float) -> None:
    labels, groups = grouped(sizes, [0] * len(sizes))
    try:
        cut_splits(labels, config(val_fraction=fraction, test_fraction=0), NAMES, groups)
        return
    except UsageError as error:
        told = str(error)
    share = min(sizes) / sum(sizes)
    assert f"data.val_fraction={fraction:g} would leave val empty, because groups stay whole" in told
    assert f"finds {len(sizes)} groups (" in told, "with the names of a few"
    assert f"), and the smallest that can be held out has {share:.0%} of the images" in told
    enough = re.search(r"such as data\.val_fraction=([\d.]+), or do without val: data\.val_fraction=0$", told)
    assert enough
    cuts = cut_splits(labels, config(val_fraction=float(enough[1]), test_fraction=0), NAMES, groups)
    assert len(cuts["val"][1]) >= min(sizes)
    assert list(cut_splits(labels, config(val_fraction=0, test_fraction=0), NAMES, groups)) == ["train"]


def test_the_share_that_the_message_proposes_is_tried_before() -> None:
    """At 0.02 and at 0.04, all groups are still nearer to train."""
    sizes, labels = [2, 27, 25, 28, 1], [0, 1, 2, 2, 0]
    told = message(sizes, labels, val_fraction=0.01, test_fraction=0)
    assert "smallest that can be held out has 1% of the images" in told
    assert "hold out more, such as data.val_fraction=0.08, " in told
    made = grouped(sizes, labels)
    assert len(cut_splits(made[0], config(val_fraction=0.08, test_fraction=0), NAMES, made[1])["val"][1]) == 1


def test_groups_that_cannot_be_held_out() -> None:
    told = message([5, 5], [0, 1])
    assert "finds 2 groups, but each has all images of some class, and training needs them" in told
    told = message([9], [0])
    assert "finds a single group, p000, in 9 images. Set data.groups so that it tells groups apart" in told
