"""Every image is counted once, and the metrics are those of one process to the last bit."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from evaluated import evaluate_on, make_evaluator, make_module, make_split

from distcls.errors import BadDataError
from distcls.inference import evaluator

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("num_images", "batch_size"),
    [(103, 8), (40, 16), (5, 8)],
    ids=["a short last batch", "an empty round for one", "one batch, and none for the other"],
)
def test_two_processes_find_what_one_does(server, tmp_path, num_images, batch_size):
    (one,) = evaluate_on(1, num_images, batch_size, tmp_path)
    assert one.values["count"] == num_images == one.confusion.sum()
    for many in evaluate_on(2, num_images, batch_size, tmp_path):
        assert many.values == one.values
        for field in dataclasses.fields(one):
            if field.name != "values":
                assert np.array_equal(getattr(many, field.name), getattr(one, field.name)), field.name


def a_process(stop_in_round: int | None = None) -> SimpleNamespace:
    rounds = iter(range(1000))
    return SimpleNamespace(
        device=torch.device("cpu"), rank=0, world_size=1, asked_to_stop=lambda: next(rounds) == stop_in_round
    )


def test_an_image_that_was_not_counted_is_an_error(monkeypatch):
    def without_the_last(*args):
        yield from list(batches(*args))[:-1]

    batches = evaluator.eval_batches
    monkeypatch.setattr(evaluator, "eval_batches", without_the_last)
    with pytest.raises(AssertionError, match="16 images were counted, val has 20"):
        make_evaluator(a_process(), 8)(make_module(), make_split(20))


def test_a_process_that_is_asked_to_stop_stops_between_two_batches():
    assert make_evaluator(a_process(stop_in_round=1), 8)(make_module(), make_split(20)) is None
    assert make_evaluator(a_process(stop_in_round=3), 8)(make_module(), make_split(20)) is not None


def test_an_image_that_cannot_be_read_any_more_ends_the_evaluation(monkeypatch):
    from distcls.data.loading import reading

    monkeypatch.setattr(reading, "SECONDS_BEFORE_RETRY", 0)
    split = make_split(20)
    split.pixels = None

    def gone(i, decoding):
        raise OSError("Stale file handle")

    split.image_set.image = gone
    with pytest.raises(BadDataError, match="Evaluation never skips images"):
        make_evaluator(a_process(), 8)(make_module(), split)
