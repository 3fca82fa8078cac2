"""The description of a finished model agrees with `distcls summary`, and is plain JSON."""

from __future__ import annotations

import json

from distcls.config.settings import Config, ModelConfig
from distcls.data.decoding.decode import Decoding
from distcls.inference.classifier import Classifier
from distcls.models.build import build_model
from distcls.report.model_summary import summarize
from distcls.training.kept.model_description import describe_model


def test_it_says_what_the_summary_says(one_thread: None) -> None:
    config, names = Config(model=ModelConfig(name="cnn2")), ["a", "b"]
    classifier = Classifier(build_model(config.model, 2, 8), config, names, Decoding(8))
    described = json.loads(json.dumps(describe_model(classifier, "cnn2")))
    summary = json.loads(json.dumps(summarize(config, names, Decoding(8), with_latency=False).as_json()))
    for key in ("image_size", "parameters", "trainable_parameters", "size_bytes", "flops", "layers"):
        assert described[key] == summary[key], key
    assert 0 < described["latency_seconds"]["1"] < described["latency_seconds"]["32"]
