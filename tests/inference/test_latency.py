"""Latency is a median of passes, and a batch that would take too long is left out."""

from __future__ import annotations

import time

import torch
from torch import nn
from variants import variant

from distcls.data.decoding.decode import Decoding
from distcls.inference import latency
from distcls.inference.classifier import Classifier


class Timed(nn.Module):
    """Takes `seconds` for each image, and more in its first pass."""

    def __init__(self, seconds: float, full_at: int = 1000) -> None:
        super().__init__()
        self.head, self.seconds, self.full_at = nn.Linear(3, 2), seconds, full_at
        self.batches: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) >= self.full_at:
            raise torch.OutOfMemoryError("full")
        time.sleep(self.seconds * len(images) + 0.2 * (len(images) not in self.batches))
        self.batches.append(len(images))
        return self.head(images.mean((2, 3)))


def measure(network: Timed, sizes: list[int], monkeypatch) -> dict:
    monkeypatch.setattr(latency, "SECONDS", 0.05)
    config = variant(train__precision="float32", model__channels_last=False)
    return latency.measure_latency(Classifier(network, config, ["a", "b"], Decoding(4)), sizes)


def test_the_first_pass_does_not_count(monkeypatch):
    network = Timed(0.01)
    found = measure(network, [1, 4], monkeypatch)
    assert 0.01 <= found[1] < 0.1 and 0.04 <= found[4] < 0.16
    assert network.batches.count(1) >= 3 and network.batches.count(4) >= 2


def test_a_batch_that_would_take_too_long_is_not_measured(monkeypatch):
    monkeypatch.setattr(latency, "LONGEST", 0.5)
    network = Timed(0.02)
    assert measure(network, [1, 32], monkeypatch)[32] is None
    assert set(network.batches) == {1}


def test_a_batch_that_does_not_fit_is_no_error(monkeypatch):
    found = measure(Timed(0.001, full_at=8), [1, 8], monkeypatch)
    assert found[1] is not None and found[8] is None
