"""Describes a finished run's network for its report: layers, parameters, FLOPs, size and latency, as plain values."""

from __future__ import annotations

from typing import Any

from distcls.inference.classifier import Classifier
from distcls.inference.latency import BATCH_SIZES, measure_latency
from distcls.models.layers import CONVENTION, layer_table, num_bytes

SECONDS = 0.1
"""Time to measure one batch size for: a run should not end much later because of it."""


def describe_model(classifier: Classifier, name: str) -> dict[str, Any]:
    """Return what `distcls summary --json` says of a network that has been trained, with its latency on this device.

    name: model.name. Raises UsageError for a network that cannot be taken apart.
    """
    size = classifier.decoding.image_size
    assert size is not None
    layers = layer_table(classifier.network, size)
    whole = layers[0]
    return {
        "model": name,
        "image_size": size,
        "parameters": whole.num_parameters,
        "trainable_parameters": whole.num_trainable,
        "size_bytes": num_bytes(classifier.network),
        "flops": whole.flops,
        "flops_convention": CONVENTION,
        "precision": classifier.precision,
        "device": classifier.device.type,
        "latency_seconds": {str(n): s for n, s in measure_latency(classifier, BATCH_SIZES, SECONDS).items()},
        "layers": [layer.as_json() for layer in layers],
    }
