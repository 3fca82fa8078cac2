"""What is written of an answer, to the byte, in each format."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import numpy as np
import pytest

from distcls.inference.answers.formats import FORMATS
from distcls.inference.answers.prediction import Prediction

NAMES = ["cat", "a very big dog", "猫"]


def prediction(*probs: float, image: str | None = "a.png", topk: int = 2) -> Prediction:
    best = sorted(zip(NAMES, probs, strict=True), key=lambda pair: -pair[1])[:topk]
    return Prediction(best, np.array(probs), NAMES, image)


SURE, UNSURE = prediction(0.1, 0.8, 0.1), prediction(0.4, 0.25, 0.35, image="photos/b.png")
ODD = prediction(0.2, 0.1, 0.7, image='odd, "name"\udce9.png')


def written(kind: str, *predictions: Prediction, **options: Any) -> bytes:
    file = io.BytesIO()
    answers = FORMATS[kind](file, NAMES, **{"topk": None, **options})
    answers.begin()
    answers.add(predictions)
    answers.add_bad("bad.png", "an empty file")
    return file.getvalue()


def test_a_prediction_knows_its_best_class_and_all_others() -> None:
    assert (SURE.label, SURE.probability) == ("a very big dog", 0.8)
    assert SURE.probabilities == {"cat": 0.1, "a very big dog": 0.8, "猫": 0.1}
    assert repr(SURE) == "<'a.png': 'a very big dog' 80.0%, 'cat' 10.0%>"
    assert repr(prediction(0.1, 0.8, 0.1, image=None, topk=1)) == "<'a very big dog' 80.0%>"


def test_the_table_is_aligned() -> None:
    assert written("table", SURE, UNSURE).decode().splitlines() == [
        "a.png         a very big dog  80.0%  cat             10.0%",
        "photos/b.png  cat             40.0%  猫              35.0%",
    ]


def test_the_table_shows_unknown_and_what_it_may_be() -> None:
    (line,) = written("table", UNSURE, threshold=0.5).decode().splitlines()
    assert line.split() == ["photos/b.png", "unknown", "cat", "40.0%", "猫", "35.0%"]


@pytest.mark.parametrize(("width", "topk", "shown"), [(80, None, 2), (50, None, 1), (10, None, 1), (10, 2, 2)])
def test_the_table_fits_the_terminal_unless_a_number_is_asked_for(width: int, topk: int | None, shown: int) -> None:
    (line,) = written("table", SURE, width=width, topk=topk).decode().splitlines()
    assert line.count("%") == shown and (topk or len(line) <= max(width, 30))


def test_csv_has_every_class() -> None:
    rows = list(csv.DictReader(io.StringIO(written("csv", SURE, UNSURE, ODD).decode("utf-8", "surrogateescape"))))
    assert list(rows[0]) == ["image", "prediction", "confidence", "p_cat", "p_a very big dog", "p_猫"]
    assert [float(value) for value in list(rows[1].values())[2:]] == [0.4, 0.4, 0.25, 0.35]
    assert rows[2]["image"] == ODD.image and rows[2]["prediction"] == "猫"
    assert len(rows) == 3, "a bad image has no row"


def test_csv_of_the_best_classes() -> None:
    head, first, second = written("csv", SURE, UNSURE, topk=2, threshold=0.5).decode().splitlines()
    assert head == "image,prediction,confidence,class_1,probability_1,class_2,probability_2"
    assert first == "a.png,a very big dog,0.8,a very big dog,0.8,cat,0.1"
    assert second == "photos/b.png,unknown,0.4,cat,0.4,猫,0.35"


def test_json_lines_have_errors_and_names_that_are_not_utf8() -> None:
    rows = [json.loads(line) for line in written("jsonl", SURE, ODD, threshold=0.75).decode().splitlines()]
    best = [{"class": "a very big dog", "probability": 0.8}, {"class": "cat", "probability": 0.1}]
    assert rows[0] == {"image": "a.png", "prediction": "a very big dog", "confidence": 0.8, "topk": best}
    assert (rows[1]["image"], rows[1]["prediction"], rows[1]["confidence"]) == (ODD.image, "unknown", 0.7)
    assert rows[2] == {"image": "bad.png", "error": "an empty file"}


def test_probabilities_are_written_so_that_float32_reads_back() -> None:
    probs = np.random.default_rng(0).dirichlet([1, 1, 1], 200).astype(np.float32)
    text = written("csv", *(prediction(*row.tolist()) for row in probs)).decode()
    read = [list(map(float, line[3:])) for line in list(csv.reader(io.StringIO(text)))[1:]]
    assert np.array_equal(np.array(read).astype(np.float32), probs)
