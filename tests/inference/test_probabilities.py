"""All probabilities of a split reach the main process, in order, and too many of them are rounded or left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distcls.inference import probabilities
from distcls.inference.probabilities import Probabilities


class Rank:
    """One of some processes that take turns: what they give is handed to the main one by the test."""

    def __init__(self, rank: int, world_size: int, mail: list[torch.Tensor]) -> None:
        self.rank, self.world_size, self.is_main, self.mail = rank, world_size, rank == 0, mail

    def to_main(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        self.mail.append(tensor)
        return []


def collect(probs: torch.Tensor, batch_size: int, world_size: int) -> Probabilities:
    """As `world_size` processes would: batches r, r + W, r + 2W …, the last rounds empty for some."""
    mail: list[list[torch.Tensor]] = [[] for _ in range(world_size)]
    senders = [Probabilities(*probs.shape, batch_size, Rank(r, world_size, mail[r])) for r in range(1, world_size)]  # type: ignore[arg-type]
    main = Rank(0, world_size, [])
    main.to_main = lambda tensor: [tensor, *(box.pop(0) for box in mail[1:])]  # type: ignore[method-assign]
    kept = Probabilities(*probs.shape, batch_size, main)  # type: ignore[arg-type]
    batches = list(probs.split(batch_size))
    for start in range(0, len(batches), world_size):
        given = [*batches[start : start + world_size], *[None] * world_size][:world_size]
        for sender, batch in zip(senders, given[1:], strict=True):
            sender.add(batch)
            assert sender.probs.size == 0, "only the main process holds them"
        kept.add(given[0])
    return kept


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_every_image_has_its_own_row(world_size):
    probs = torch.rand(43, 6).softmax(1)
    kept = collect(probs, 5, world_size)
    assert kept.probs.dtype == np.float32 and np.array_equal(kept.probs, probs.numpy())
    assert kept.classes is None and kept.describe() is None


@pytest.mark.parametrize("world_size", [1, 3])
def test_many_are_rounded_and_too_many_are_left_out(monkeypatch, world_size):
    probs = torch.rand(43, 60).softmax(1)
    monkeypatch.setattr(probabilities, "LARGEST_FLOAT32", 1000)
    kept = collect(probs, 5, world_size)
    assert kept.probs.dtype == np.float16 and np.abs(kept.probs - probs.numpy()).max() < 1e-3
    assert kept.describe() == "as float16"
    monkeypatch.setattr(probabilities, "LARGEST_FLOAT16", 1000)
    kept = collect(probs, 5, world_size)
    assert kept.classes is not None and kept.probs.shape == kept.classes.shape == (43, 20)
    best, classes = probs.topk(20, 1)
    assert np.array_equal(kept.classes, classes.numpy()) and np.abs(kept.probs - best.numpy()).max() < 1e-3
    assert "20 most probable classes" in str(kept.describe())


def test_imagenet_fits_in_100_mib():
    shape = 50_000, 1000
    kept = Probabilities(*shape, 256, Rank(1, 2, []))  # type: ignore[arg-type]
    assert kept.dtype == torch.float16 and kept.width == 1000 and kept.probs.nbytes == 0
