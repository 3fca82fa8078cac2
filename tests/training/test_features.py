"""Features of a frozen network are those of the network itself, and are computed once."""

from __future__ import annotations

import dataclasses
import shutil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from distcls.config.loading import load_config
from distcls.data.build import build_data
from distcls.errors import DiskError
from distcls.inference.classifier import Classifier
from distcls.models.build import build_model
from distcls.training.features import with_features

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def processes() -> Any:
    return SimpleNamespace(
        is_local_main=True,
        rank=0,
        world_size=1,
        device=torch.device("cpu"),
        from_all=lambda value: [value],
        from_main=lambda function: function(),
        wait_for_everyone=lambda: None,
    )


def test_features_take_the_place_of_pixels_and_are_computed_once(tmp_path, processes):
    settings = [f"data.cache_dir={tmp_path}", "model.head_only=true", "model.args={hidden: 6}", "data.workers=0"]
    config = load_config(None, [*settings, "train.eval_batch_size=100"])
    data = build_data(config.data, processes)
    torch.manual_seed(0)
    network = build_model(config.model, 10, data.image_size).eval()
    assert [name for name, p in network.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]
    classifier = Classifier(network, config, data.class_names, data.decoding)
    reports: list[tuple[int, int]] = []
    seen = with_features(data, classifier, config, processes, lambda *counts: reports.append(counts))
    assert seen.val is not None and data.val is not None
    assert reports[-1] == (len(data.train) + len(data.val),) * 2
    assert seen.train.pixels is not None and seen.train.pixels.shape == (len(data.train) + len(data.val), 6)
    assert np.array_equal(seen.train.labels, data.train.labels) and seen.test is data.test

    some = torch.from_numpy(np.stack([data.val.image(i) for i in range(20)]))
    features = torch.from_numpy(np.asarray(seen.val.pixels[seen.val.rows[:20]]))
    with torch.no_grad():
        torch.testing.assert_close(classifier.logits(features), classifier.logits(some))

    with torch.no_grad():
        network.get_submodule("head").weight.zero_()  # a trained head changes no features
    again = with_features(data, classifier, config, processes, lambda *_: pytest.fail("computed again"))
    assert np.array_equal(again.train.pixels, seen.train.pixels)
    folds = build_data(dataclasses.replace(config.data, folds=5, fold=3), processes)
    of_fold = with_features(folds, classifier, config, processes, lambda *_: pytest.fail("computed again"))
    assert of_fold.val is not None and folds.val is not None
    some = torch.from_numpy(np.stack([folds.val.image(i) for i in range(20)]))
    features = torch.from_numpy(np.asarray(of_fold.val.pixels[of_fold.val.rows[:20]]))
    with torch.no_grad():
        torch.testing.assert_close(classifier.logits(features), classifier.logits(some))
        network.get_submodule("hidden").weight.add_(1)
    reports.clear()
    other = with_features(data, classifier, config, processes, lambda *counts: reports.append(counts))
    assert reports and not np.array_equal(other.train.pixels, seen.train.pixels)


def test_features_that_something_removed_are_an_error(tmp_path, processes):
    settings = [f"data.cache_dir={tmp_path}", "model.head_only=true", "model.args={hidden: 6}", "data.workers=0"]
    config = load_config(None, settings)
    data = build_data(config.data, processes)
    classifier = Classifier(build_model(config.model, 10, data.image_size), config, data.class_names, data.decoding)
    processes.wait_for_everyone = lambda: [shutil.rmtree(entry) for entry in list(tmp_path.rglob("*features-*"))]
    with pytest.raises(DiskError, match="the features are gone from"):
        with_features(data, classifier, config, processes, lambda *_: None)
