"""How much of a difference between two runs may be chance: known values, and rates over many made-up pairs."""

from __future__ import annotations

import numpy as np
import pytest
from made_runs import make_run, write
from scipy.stats import binomtest

from distcls.report.comparison.paired import Paired, holm, mcnemar, pair
from distcls.runs.overview import read_overview


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (5, 5), (12, 37), (3, 0), (900, 1100), (2000, 2100)])
def test_the_p_value_is_that_of_fair_coins(first: int, second: int) -> None:
    expected = binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-6) == mcnemar(second, first)


def test_the_interval_is_agrestis_and_mins() -> None:
    """Their example, approval of a prime minister: 150 and 86 of 1,600 changed their minds."""
    low, high = Paired("test", 1600, 86, 150).interval
    assert (low, high) == (pytest.approx(0.0212, abs=2e-4), pytest.approx(0.0586, abs=2e-4))
    assert Paired("test", 10, 0, 0).interval[0] < 0 < Paired("test", 10, 0, 0).interval[1]


def test_the_interval_covers_the_difference_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    drawn = draw.multinomial(300, [0.03, 0.05, 0.92], 4000)
    intervals = [Paired("test", 300, first, second).interval for first, second, _ in drawn.tolist()]
    assert 0.94 < np.mean([low <= 0.02 <= high for low, high in intervals]) < 0.98


def test_several_tests_are_adjusted() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def runs(tmp_path, **different):
    right = {"a": [1, 1, 1, 0, 0, 1], "b": [1, 1, 0, 1, 1, 1]}
    for name, of_run in right.items():
        make_run(tmp_path / name, right=np.array(of_run), **(different if name == "b" else {}))
    return tmp_path / "a", tmp_path / "b"


def test_runs_are_paired_image_by_image(tmp_path) -> None:
    first, second = map(read_overview, runs(tmp_path))
    assert pair(first, second) == Paired("test", 6, only_first=1, only_second=2)
    assert pair(second, first) == Paired("test", 6, only_first=2, only_second=1)


def test_the_order_of_images_and_of_classes_does_not_matter(tmp_path) -> None:
    first, second = runs(tmp_path)
    path = second / "predictions" / "test.npz"
    order = np.array([5, 3, 1, 0, 2, 4])
    with np.load(path) as arrays:
        changed = {name: array[order] for name, array in arrays.items()}
    for name in ("labels", "preds"):
        changed[name] = 2 - changed[name]
    np.savez(path, **changed)
    write(second, "classes", ["class 2", "class 1", "class 0"])
    assert pair(read_overview(first), read_overview(second)) == Paired("test", 6, only_first=1, only_second=2)


def test_other_images_are_not_paired(tmp_path) -> None:
    first, second = runs(tmp_path, images="y")
    assert pair(read_overview(first), read_overview(second)) == "their test images are not the same"
    write(second, "data_report", {"split_fingerprints": {"test": "x"}})
    found = pair(read_overview(first), read_overview(second))
    assert found == "their test images are not the same", "their names differ"


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 torn", "labels", "shapes", "objects"])
def test_predictions_that_are_damaged_are_none(tmp_path, content) -> None:
    first, second = runs(tmp_path)
    path = second / "predictions" / "test.npz"
    names, labels = np.array(["x/0.png"]), np.array([0])
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "labels":
        np.savez(path, names=names, labels=labels + 7, preds=labels)
    elif content == "shapes":
        np.savez(path, names=names, labels=labels, preds=np.array([0, 1]))
    else:
        np.savez(path, names=names, labels=np.array([{"an": "object"}]), preds=labels)
    found = pair(read_overview(first), read_overview(second))
    assert found == "their folders have no predictions of the same split"
