"""Whole groups are dealt so that each part gets its share of the images and of each class, the same on all machines."""

from __future__ import annotations

import time

import numpy as np
import pytest

from distcls.data.splitting.dealing import deal

Images = tuple[np.ndarray, np.ndarray]


def patients(num_groups: int, num_classes: int, seed: int = 0, mixed: bool = False) -> Images:
    """Labels and groups: 1 to 20 images of each patient, of one class or of several."""
    draw = np.random.default_rng(seed)
    groups = np.repeat(np.arange(num_groups), draw.integers(1, 21, num_groups))
    of_group = draw.integers(0, num_classes, num_groups)
    labels = of_group[groups]
    if mixed:
        labels = np.where(draw.random(len(groups)) < 0.7, labels, draw.integers(0, num_classes, len(groups)))
    return labels, groups


def held_out(images: Images, share: float, seed: int = 0, purpose: str = "val") -> np.ndarray:
    """Positions of the images that are held out."""
    parts = deal(*images, (1 - share, share), [1], seed, purpose)
    return np.flatnonzero(parts[images[1]] == 1)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.8])
def test_shares_of_the_images_and_of_each_class_are_met(share: float, mixed: bool) -> None:
    labels, _ = images = patients(200, 4, mixed=mixed)
    out = held_out(images, share)
    assert abs(len(out) / len(labels) - share) < 0.005
    assert np.bincount(labels[out]) / np.bincount(labels) == pytest.approx([share] * 4, abs=0.03)


@pytest.mark.parametrize("mixed", [False, True])
def test_folds_have_about_the_same_size_and_classes(mixed: bool) -> None:
    labels, groups = patients(200, 4, mixed=mixed)
    folds = deal(labels, groups, [1 / 5] * 5, range(5), 0, "fold")[groups]
    counts = np.array([np.bincount(labels[folds == fold], minlength=4) for fold in range(5)])
    assert counts.sum(1) / len(labels) == pytest.approx([0.2] * 5, abs=0.005)
    assert np.all(np.abs(counts / np.bincount(labels) - 0.2) < 0.03)


def test_groups_of_equal_size_and_one_class_are_dealt_exactly() -> None:
    groups = np.arange(300) // 3
    labels = groups % 2
    out = held_out((labels, groups), 0.2)
    assert np.bincount(labels[out]).tolist() == [30, 30]
    folds = deal(labels, groups, [1 / 5] * 5, range(5), 0, "fold")
    assert np.bincount(folds * 2 + np.arange(100) % 2).tolist() == [10] * 10


def test_large_groups_are_held_out_as_often_as_small_ones() -> None:
    images = patients(300, 2)
    sizes = np.bincount(images[1])
    of_out = np.mean([sizes[np.unique(images[1][held_out(images, 0.2, seed)])].mean() for seed in range(20)])
    assert of_out == pytest.approx(sizes.mean(), rel=0.1)


def test_the_seed_and_the_purpose_decide_alone() -> None:
    images = patients(60, 3)
    first = held_out(images, 0.2).tolist()
    assert first == held_out(images, 0.2).tolist()
    assert first != held_out(images, 0.2, seed=1).tolist()
    assert first != held_out(images, 0.2, purpose="test").tolist()


def test_the_order_of_the_images_does_not_matter() -> None:
    labels, groups = patients(60, 3)
    shuffled = np.random.default_rng(1).permutation(len(labels))
    parts = deal(labels, groups, (0.8, 0.2), [1], 0, "val")
    assert np.array_equal(parts, deal(labels[shuffled], groups[shuffled], (0.8, 0.2), [1], 0, "val"))


def test_the_cut_never_changes() -> None:
    """A run of last year must find its validation images again, whatever the versions of numpy and of Python."""
    groups = np.repeat(np.arange(12), [1, 2, 3, 4, 5, 6, 6, 5, 4, 3, 2, 1])
    labels = np.arange(42) % 3
    assert np.flatnonzero(deal(labels, groups, (0.7, 0.3), [1], 0, "val")).tolist() == [0, 4, 6, 11]
    assert deal(labels, groups, [1 / 3] * 3, range(3), 0, "fold").tolist() == [0, 0, 2, 1, 2, 1, 0, 0, 2, 1, 2, 1]


def test_each_class_keeps_a_group_to_train_on() -> None:
    draw = np.random.default_rng(0)
    for share in (0.2, 0.5, 0.9):
        groups = np.arange(400) // 10
        labels = np.concatenate(
            [np.repeat([0, 1, 2], 10), draw.integers(3, 6, 370)]
        )  # 0, 1 and 2 are in one group each
        out = held_out((labels, groups), share)
        assert set(labels) == set(np.delete(labels, out))
        assert abs(len(out) / 400 - share) < 0.06


def test_the_two_groups_of_a_class_are_in_different_folds() -> None:
    for seed in range(20):
        labels, groups = patients(30, 3, seed, mixed=True)
        rare = np.isin(groups, [3, 17])
        labels = np.where(rare & (np.arange(len(labels)) % 2 == 0), 3, labels)
        labels[np.flatnonzero(groups == 3)[0]] = labels[np.flatnonzero(groups == 17)[0]] = 3
        folds = deal(labels, groups, [1 / 4] * 4, range(4), seed, "fold")
        assert folds[3] != folds[17] and np.unique(folds).tolist() == [0, 1, 2, 3]


def test_as_many_folds_as_groups_have_one_each() -> None:
    labels, groups = patients(7, 2, mixed=True)
    assert sorted(deal(labels, groups, [1 / 7] * 7, range(7), 0, "fold").tolist()) == list(range(7))


def test_a_class_without_images_is_no_trouble() -> None:
    groups = np.arange(40) // 2
    assert len(held_out((np.where(groups % 2, 3, 1), groups), 0.25)) == 10


def test_a_hundred_thousand_groups_take_seconds() -> None:
    draw = np.random.default_rng(0)
    groups = np.arange(1_200_000) // 12
    labels = draw.integers(0, 1000, 100_000)[groups]
    start = time.process_time()
    out = held_out((labels, groups), 0.2)
    assert time.process_time() - start < 10
    assert abs(len(out) / len(labels) - 0.2) < 0.0005
