"""Predictions are counted as the evaluation counted them."""

from __future__ import annotations

import numpy as np
import pytest

from distcls.report.counting import calibration_bins, confidence_at, confusion_matrix
from distcls.runs.results import Predictions


def make_predictions() -> Predictions:
    probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.55, 0.45], [0.0, 1.0]], np.float32)
    preds = probs.argmax(1)
    return Predictions(np.array(list("abcd")), np.array([0, 0, 0, 1]), preds, probs.max(1).astype(float), probs)


def test_what_is_right_and_how_sure_is_counted() -> None:
    found = make_predictions()
    assert confusion_matrix(found, 3).tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    confidence, right, count = calibration_bins(found)
    assert count.sum() == 4 and right.sum() == 3 and confidence.sum() == pytest.approx(3.25)
    assert count[14] == 1 and count[13] == 1 and count[8] == 1


def test_a_temperature_changes_confidence_as_it_would_change_logits() -> None:
    found = make_predictions()
    cooler = confidence_at(found, 2.0)
    assert cooler is not None and cooler[0] == pytest.approx(3 / (3 + 1)) and cooler[3] == pytest.approx(1)
    same = confidence_at(found, 1.0)
    assert same is not None and same == pytest.approx(found.confidence)
    assert calibration_bins(found, cooler)[0].sum() == pytest.approx(cooler.sum())
    found.classes = np.zeros((4, 2), np.int32)
    assert confidence_at(found, 2.0) is None
