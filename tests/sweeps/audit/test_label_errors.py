"""Wrong labels are found in made-up probabilities for which the noise is known."""

from __future__ import annotations

import numpy as np
import pytest

from distcls.sweeps.audit.label_errors import find_label_errors

N, C = 8_000, 10


def made_up(margin: float, rates: np.ndarray, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True labels, given labels, and what a calibrated model trained on the given ones would predict.

    margin: how far apart classes are, in standard deviations; temperature: above 1, the model is underconfident.
    """
    draw = np.random.default_rng(0)
    truth = draw.integers(0, C, N)
    evidence = draw.normal(size=(N, C))
    evidence[np.arange(N), truth] += margin
    given = (rates[truth].cumsum(1) < draw.random(N)[:, None]).sum(1).clip(0, C - 1)
    clean = np.exp(margin * evidence)
    noisy = (clean / clean.sum(1, keepdims=True)) @ rates
    noisy **= 1 / temperature
    return truth, given, (noisy / noisy.sum(1, keepdims=True)).astype(np.float32)


def uniform(noise: float) -> np.ndarray:
    rates = np.full((C, C), noise / (C - 1))
    np.fill_diagonal(rates, 1 - noise)
    return rates


def one_way(noise: float) -> np.ndarray:
    """Labels of each class are wrong in one way: they are those of the next."""
    return (1 - noise) * np.eye(C) + noise * np.roll(np.eye(C), 1, axis=1)


@pytest.mark.parametrize(
    ("margin", "rates", "temperature", "recall", "precision"),
    [
        (3.2, uniform(0.1), 1.0, 0.93, 0.88),
        (3.2, uniform(0.1), 1.3, 0.93, 0.88),
        (3.2, uniform(0.02), 1.0, 0.85, 0.88),
        (2.4, uniform(0.1), 0.7, 0.78, 0.75),
        (2.4, one_way(0.1), 1.0, 0.84, 0.84),
    ],
    ids=["easy", "underconfident", "few errors", "hard, overconfident", "hard, one way"],
)
def test_known_noise_is_found(
    margin: float, rates: np.ndarray, temperature: float, recall: float, precision: float
) -> None:
    truth, given, probs = made_up(margin, rates, temperature)
    found = find_label_errors(given, probs)
    hits = (truth != given)[found.listed]
    assert hits.sum() / (truth != given).sum() > recall and hits.mean() > precision
    assert (np.diff(found.scores[found.listed]) <= 0).all() and 0 <= found.scores.min() <= found.scores.max() <= 1
    right = found.suggested[found.listed] == truth[found.listed]
    assert right[hits].mean() > 0.8 and (found.suggested != given).all()


def test_the_rates_of_errors_are_estimated() -> None:
    _, given, probs = made_up(3.2, one_way(0.1))
    rates = find_label_errors(given, probs).rates
    assert np.allclose(rates.sum(1), 1) and np.abs(rates - one_way(0.1)).max() < 0.05


def test_a_likely_confusion_ranks_above_an_unlikely_one() -> None:
    """Two images get the same prediction; only one is labeled as this data set often mislabels its class."""
    _, given, probs = made_up(2.4, one_way(0.1))
    probs[:2] = 0
    probs[:2, [0, 1, 5]] = 0.9, 0.05, 0.05
    given[:2] = 1, 5
    scores = find_label_errors(given, probs).scores
    assert scores[0] > scores[1] + 0.3


def test_mistakes_of_the_model_are_not_taken_for_wrong_labels() -> None:
    """The model is wrong about one image in five, and no label is."""
    truth, given, probs = made_up(2.4, uniform(0))
    assert (truth == given).all() and (probs.argmax(1) != given).mean() > 0.2
    assert len(find_label_errors(given, probs).listed) < 10


@pytest.mark.parametrize("noise", [0.1, 0.3])
@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_scores_up_to_where_the_list_ends_are_probabilities(noise: float, temperature: float) -> None:
    truth, given, probs = made_up(2.4, uniform(noise), temperature)
    scores = find_label_errors(given, probs).scores
    for low in (0.0, 0.2, 0.35):
        rows = (scores >= low) & (scores <= low + 0.15)
        assert abs(scores[rows].mean() - (truth != given)[rows].mean()) < 0.1


def test_the_temperature_of_the_predictions_hardly_matters() -> None:
    found = [find_label_errors(*made_up(2.4, uniform(0.1), temperature)[1:]) for temperature in (0.6, 1.0, 1.6)]
    assert np.abs(found[0].scores - found[1].scores).max() < 0.1 > np.abs(found[2].scores - found[1].scores).max()


def test_right_labels_are_not_listed() -> None:
    labels = np.arange(300) % 3
    probs = np.full((300, 3), 0.01, np.float32)
    probs[np.arange(300), labels] = 0.98
    assert len(find_label_errors(labels, probs).listed) == 0


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_handful_of_images_is_no_problem(count: int) -> None:
    probs = np.zeros((count, 3), np.float32)
    probs[:, 0] = 1
    found = find_label_errors(np.zeros(count, np.int64), probs)
    assert len(found.listed) == 0 and np.isfinite(found.scores).all()
