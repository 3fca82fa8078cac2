"""A temperature that was put into the logits is found again."""

from __future__ import annotations

import numpy as np
import pytest

from distcls.inference.calibration import at_temperature, fit_temperature


def make_sure(temperature: float, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (n, C) of a model that is surer than it should be by a temperature, and labels (n,)."""
    draw = np.random.default_rng(0)
    probs = at_temperature(draw.dirichlet(np.ones(6), count), 0.7)
    labels = (probs.cumsum(1) > draw.random((count, 1))).argmax(1)  # so these are calibrated
    return at_temperature(probs, 1 / temperature).astype(np.float32), labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_it_finds_the_temperature(temperature):
    assert fit_temperature(*make_sure(temperature)) == pytest.approx(temperature, rel=0.03)


def test_no_other_temperature_is_likelier():
    probs, labels = make_sure(1.7, 300)
    found = fit_temperature(probs, labels)

    def nll(temperature):
        return -np.log(at_temperature(probs, temperature)[np.arange(len(labels)), labels]).mean()

    assert nll(found) < min(nll(found * 1.01), nll(found / 1.01))


def test_a_model_that_is_always_right_or_never_has_a_bounded_temperature():
    certain = np.eye(3, dtype=np.float32)[[0, 1, 2]]
    assert fit_temperature(0.9 * certain + 0.1 / 3, np.array([0, 1, 2])) == pytest.approx(0.01, rel=0.01)
    assert fit_temperature(certain, np.array([1, 2, 0])) == pytest.approx(100, rel=0.01)


def test_a_temperature_moves_no_prediction():
    probs, _ = make_sure(1.0, 200)
    hot = at_temperature(probs, 3)
    assert np.array_equal(hot.argmax(1), probs.argmax(1)) and np.allclose(hot.sum(1), 1)
    assert np.allclose(at_temperature(hot, 1 / 3), probs, atol=1e-6)
