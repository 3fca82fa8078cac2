from __future__ import annotations

import numpy as np
import pytest

from distcls.config.settings import DataConfig
from distcls.data.splitting.cut import cut_splits
from distcls.data.splitting.stratify import cut_fold, hold_out
from distcls.errors import UsageError


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.333, 0.5, 0.9])
def test_shares_hold_in_total_and_in_each_class(fraction: float) -> None:
    labels = np.random.default_rng(0).integers(0, 7, 1000)
    kept, held_out = hold_out(labels, fraction, 0, "val")
    assert len(held_out) == int(1000 * fraction + 0.5)
    assert np.array_equal(np.sort(np.concatenate([kept, held_out])), np.arange(1000))
    expected = np.bincount(labels) * fraction
    assert np.all(np.abs(np.bincount(labels[held_out]) - expected) < 1)


def test_positions_are_sorted() -> None:
    for part in hold_out(np.arange(100) % 5, 0.3, 1, "val"):
        assert np.all(np.diff(part) > 0)


def test_the_cut_depends_on_seed_and_purpose_only() -> None:
    labels = np.arange(200) % 4
    first = hold_out(labels, 0.2, 0, "val")[1].tolist()
    assert first == hold_out(labels, 0.2, 0, "val")[1].tolist()
    assert first != hold_out(labels, 0.2, 1, "val")[1].tolist()
    assert first != hold_out(labels, 0.2, 0, "test")[1].tolist()


def test_the_cut_never_changes() -> None:
    """A run of last year must find its validation images again, whatever numpy's version."""
    assert hold_out(np.arange(30) % 3, 0.2, 0, "val")[1].tolist() == [5, 13, 15, 16, 17, 21]


def test_every_class_keeps_an_image() -> None:
    labels = np.array([0, 1, 2, 3] + [4] * 96)
    kept, held_out = hold_out(labels, 0.5, 0, "val")
    assert set(labels[kept]) == {0, 1, 2, 3, 4}
    assert len(held_out) == 50


def test_a_class_without_images_is_no_trouble() -> None:
    kept, held_out = hold_out(np.array([0, 0, 2, 2]), 0.5, 0, "val")
    assert len(kept) == len(held_out) == 2


def test_more_folds_than_images_are_refused_whichever_fold_it_is() -> None:
    labels = {"train": np.arange(20) % 2}
    assert len(cut_splits(labels, DataConfig(folds=16, fold=15))["val"][1]) == 1
    for fold in (0, 19):
        with pytest.raises(UsageError, match=r"data.folds=20 is more than the 16 images .* Use data.folds=16 or fewer"):
            cut_splits(labels, DataConfig(folds=20, fold=fold))


@pytest.mark.parametrize("fold", [0, 1])
def test_a_class_of_one_image_is_refused_whichever_fold_it_is(fold: int) -> None:
    labels, names = np.array([0] * 10 + [1] + [2] * 10), ["ant", "bee", "cat"]
    config = DataConfig(folds=2, fold=fold, test_fraction=0)
    with pytest.raises(UsageError, match="the class bee has only 1 image: .* add images, leave the class out$"):
        cut_splits({"train": labels}, config, names)
    assert cut_splits({"train": labels}, config)  # somebody who only counts
    assert cut_splits({"train": np.append(labels, 1)}, config, names)


def test_a_class_that_has_one_image_left_beside_test_is_refused() -> None:
    labels, names = {"train": np.repeat(np.arange(3), 2)}, ["ant", "bee", "cat"]
    message = "the classes ant, bee have only 1 image each once the test images are held out.*or set data.test_frac"
    with pytest.raises(UsageError, match=message):
        cut_splits(labels, DataConfig(folds=2, fold=0, test_fraction=0.4), names)
    assert cut_splits(labels, DataConfig(folds=2, fold=0, test_fraction=0), names)


def test_test_is_cut_from_all_and_val_from_the_rest() -> None:
    cuts = cut_splits({"train": np.arange(1000) % 10}, DataConfig(val_fraction=0.1, test_fraction=0.2))
    assert {name: len(rows) for name, (_, rows) in cuts.items()} == {"train": 720, "val": 80, "test": 200}
    assert len(np.unique(np.concatenate([rows for _, rows in cuts.values()]))) == 1000


def test_splits_that_exist_are_kept() -> None:
    cuts = cut_splits({"train": np.arange(50) % 2, "test": np.zeros(10, np.int64)}, DataConfig(val_fraction=0.1))
    assert {name: (source, len(rows)) for name, (source, rows) in cuts.items()} == {
        "train": ("train", 45),
        "val": ("train", 5),
        "test": ("test", 10),
    }


def test_fractions_of_zero_cut_nothing() -> None:
    cuts = cut_splits({"train": np.arange(50) % 2}, DataConfig(val_fraction=0, test_fraction=0))
    assert list(cuts) == ["train"] and len(cuts["train"][1]) == 50


def test_each_image_is_in_one_fold_and_each_class_in_all() -> None:
    labels = np.random.default_rng(0).integers(0, 7, 1003)
    folds = [cut_fold(labels, 5, fold, 0) for fold in range(5)]
    assert np.array_equal(np.sort(np.concatenate([val for _, val in folds])), np.arange(1003))
    assert sorted(len(val) for _, val in folds) == [200, 200, 201, 201, 201]
    counts = np.array([np.bincount(labels[val], minlength=7) for _, val in folds])
    assert np.all(counts.max(axis=0) - counts.min(axis=0) <= 1)
    for rest, val in folds:
        assert np.array_equal(np.sort(np.concatenate([rest, val])), np.arange(1003))


def test_folds_never_change() -> None:
    assert cut_fold(np.arange(12) % 2, 3, 0, 0)[1].tolist() == [0, 1, 3, 10]
    assert cut_fold(np.arange(12) % 2, 3, 0, 0)[1].tolist() != cut_fold(np.arange(12) % 2, 3, 0, 1)[1].tolist()


def test_the_test_split_is_the_same_in_all_folds() -> None:
    labels = {"train": np.arange(1000) % 10}
    cuts = [cut_splits(labels, DataConfig(folds=4, fold=fold, test_fraction=0.2)) for fold in range(4)]
    assert all(np.array_equal(cut["test"][1], cuts[0]["test"][1]) for cut in cuts)
    assert [len(cut["val"][1]) for cut in cuts] == [200] * 4
    everything = np.concatenate([cuts[0]["test"][1], *(cut["val"][1] for cut in cuts)])
    assert np.array_equal(np.sort(everything), np.arange(1000))


def test_folds_beside_a_val_split_of_the_data_are_refused() -> None:
    labels = {"train": np.arange(50) % 2, "val": np.zeros(10, np.int64)}
    with pytest.raises(UsageError, match="has a val split of its own"):
        cut_splits(labels, DataConfig(folds=5, fold=0))
