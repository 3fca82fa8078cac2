"""Metrics are those of scikit-learn, whoever counted which batch."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import sklearn.metrics as sk
import torch

from distcls.inference.metrics import NUM_BINS
from distcls.inference.sums import SplitSums

pytestmark = pytest.mark.usefixtures("one_thread")


def make_predictions(num_images: int, num_classes: int, present: int, seed: int = 0):
    """Logits, and labels of the first `present` classes only."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, present, num_images)
    logits = draw.normal(size=(num_images, num_classes)) + 1.5 * np.eye(num_classes)[labels]
    return torch.from_numpy(logits).float(), torch.from_numpy(labels)


def losses_of(logits, labels):
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


def measure(logits, labels, batch_size: int, num_classes: int | None = None):
    sums = SplitSums(num_classes or logits.shape[1], labels.numpy(), batch_size)
    for batch, first in enumerate(range(0, len(labels), batch_size)):
        part = slice(first, first + batch_size)
        sums.update(batch, logits[part], labels[part], losses_of(logits[part], labels[part]))
    return sums.compute()


@pytest.mark.parametrize(("num_classes", "present"), [(10, 10), (10, 4), (7, 6), (2, 2), (6, 1)])
def test_values_are_those_of_scikit_learn(num_classes, present):
    logits, labels = make_predictions(403, num_classes, present)
    found = measure(logits, labels, 64)
    preds, truth = logits.argmax(1).numpy(), labels.numpy()
    probs = logits.double().softmax(1).numpy()
    every = np.arange(num_classes)
    assert found.values["count"] == 403
    assert found.values["accuracy"] == sk.accuracy_score(truth, preds)
    assert found.confusion.tolist() == sk.confusion_matrix(truth, preds, labels=every).tolist()
    assert found.values["macro_f1"] == pytest.approx(sk.f1_score(truth, preds, average="macro"), abs=1e-12)
    for name, score in (("macro_precision", sk.precision_score), ("macro_recall", sk.recall_score)):
        expected = score(truth, preds, average="macro", zero_division=0)
        assert found.values[name] == pytest.approx(expected, abs=1e-12)
    for name, score in (("weighted_precision", sk.precision_score), ("weighted_f1", sk.f1_score)):
        expected = score(truth, preds, average="weighted", zero_division=0)
        assert found.values[name] == pytest.approx(expected, abs=1e-12)
    of_classes = sk.precision_recall_fscore_support(truth, preds, labels=every, zero_division=0)
    for name, expected in zip(("precision", "recall", "f1", "count"), of_classes, strict=True):
        assert [of_class[name] for of_class in found.by_class] == pytest.approx(expected.tolist(), abs=1e-12)
    assert found.values["loss"] == pytest.approx(sk.log_loss(truth, probs, labels=every), rel=1e-6)
    assert found.values["nll"] == pytest.approx(sk.log_loss(truth, probs, labels=every), rel=1e-9)
    assert found.values["brier"] == pytest.approx(((probs - np.eye(num_classes)[truth]) ** 2).sum(1).mean(), rel=1e-9)
    if num_classes > 5:
        top5 = sk.top_k_accuracy_score(truth, probs, k=5, labels=every)
        assert found.values["top5"] == pytest.approx(top5, abs=1e-12)
    assert np.array_equal(found.preds, preds)
    np.testing.assert_allclose(found.confidence, probs.max(1))


def test_a_class_that_is_neither_there_nor_predicted_is_left_out_of_the_means():
    logits, labels = make_predictions(200, 6, 4)
    logits[:, 4:] -= 100
    found, preds = measure(logits, labels, 64).values, logits.argmax(1)
    assert set(preds.tolist()) == set(range(4))
    for name, score in (("macro_f1", sk.f1_score), ("macro_precision", sk.precision_score)):
        assert found[name] == pytest.approx(score(labels, preds, average="macro"), abs=1e-12)


def test_five_classes_or_fewer_are_all_among_the_top_5():
    logits, labels = make_predictions(50, 3, 3)
    assert measure(logits, labels, 64).values["top5"] == 1.0


def test_calibration_error_is_that_of_guo():
    logits, labels = make_predictions(500, 10, 10)
    found = measure(2 * logits, labels, 64)
    probs = (2 * logits).double().softmax(1).numpy()
    confidence, right = probs.max(1), probs.argmax(1) == labels.numpy()
    expected = 0.0
    for i in range(NUM_BINS):
        inside = (confidence > i / NUM_BINS) & (confidence <= (i + 1) / NUM_BINS)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
            assert found.bin_count[i] == inside.sum()
            assert found.bin_correct[i] == right[inside].sum()
            assert found.bin_confidence[i] == pytest.approx(confidence[inside].sum())
    assert found.values["ece"] == pytest.approx(expected, abs=1e-12)
    assert found.values["ece"] > 0.01  # else it says little


def test_certain_predictions_are_in_the_last_bin():
    found = measure(torch.tensor([[1000.0, 0.0], [1000.0, 0.0]]), torch.tensor([0, 1]), 2)
    assert found.bin_count.tolist() == [0] * (NUM_BINS - 1) + [2]
    assert found.values["ece"] == 0.5


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_add_up_to_the_bits_of_one_process(world_size):
    """Rank r counts batches r, r + W …; states are summed in any order, and nothing changes."""
    logits, labels = make_predictions(403, 10, 10)
    losses, batch_size = losses_of(logits, labels), 64
    ranks = [SplitSums(10, labels.numpy(), batch_size) for _ in range(world_size)]
    for batch, first in enumerate(range(0, 403, batch_size)):
        part = slice(first, first + batch_size)
        ranks[batch % world_size].update(batch, logits[part], labels[part], losses[part])
    total = copy.deepcopy(ranks[-1])
    for rank in ranks[:-1]:
        for name in total._defaults:
            setattr(total, name, getattr(total, name) + getattr(rank, name))
    one, many = measure(logits, labels, batch_size), total.compute()
    assert many.values == one.values
    for name in (
        "confusion",
        "bin_confidence",
        "bin_correct",
        "bin_count",
        "preds",
        "confidence",
        "in_top5",
        "image_means",
    ):
        assert np.array_equal(getattr(many, name), getattr(one, name))


def test_a_rank_without_a_batch_adds_nothing():
    sums = SplitSums(4, np.zeros(10, int), 16)
    assert all(not getattr(sums, name).any() for name in sums._defaults)


def test_a_loss_that_is_not_finite_does_not_stop_the_counting():
    logits, labels = make_predictions(20, 4, 4)
    logits[3] = torch.nan
    found = measure(logits, labels, 8)
    assert found.values["count"] == 20
    assert np.isnan(found.values["loss"])
