"""Draws are keyed by seed, purpose and position, and by nothing else."""

from __future__ import annotations

import itertools

import pytest
import torch

from distcls.plan.keys import key, numpy_generator
from distcls.plan.randomness import seed_torch

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("position", "number"),
    [
        ((0, "order", 0), 7134422430951335918),
        ((0, "order", 1), 5723403778144229568),
        ((1, "order", 0), 8599320019167540450),
        ((2**62, "augment", 5), 4654159914318778447),
        ((0, "model", 3, 11), 1642060967568916824),
        ((0, "init"), 1085637419451919539),
    ],
)
def test_keys_are_pinned(position, number):
    """Other keys would change every run."""
    assert key(*position) == number


def test_no_two_positions_share_a_key():
    seeds, purposes = (0, 1, 2, 10, 11), ("order", "augment", "model", "init")
    counters = [(), *itertools.product(range(12)), *itertools.product(range(12), repeat=2)]
    positions = list(itertools.product(seeds, purposes, counters))
    keys = {key(seed, purpose, *numbers) for seed, purpose, numbers in positions}
    assert len(keys) == len(positions)
    assert all(0 <= k < 2**63 for k in keys)


def test_generators_begin_where_their_key_says():
    again = [numpy_generator(3, "augment", 9).random(5).tolist() for _ in range(2)]
    assert again[0] == again[1]
    assert again[0] != numpy_generator(3, "augment", 10).random(5).tolist()
    assert again[0][:2] == [0.6167000030426224, 0.8877411284357803]


def test_torch_draws_only_from_the_position():
    """What was drawn before does not matter, and a position has its own numbers."""
    draws = []
    for position in ((0, 1), (1, 0), (0, 1)):
        torch.rand(17)
        seed_torch(CPU, 5, "model", *position)
        draws.append(torch.nn.functional.dropout(torch.ones(64), 0.5).tolist())
    assert draws[0] == draws[2] != draws[1]


def test_torch_numbers_are_pinned():
    seed_torch(CPU, 3, "model", 1, 2)
    assert torch.rand(2).tolist() == [0.5484951138496399, 0.8231503963470459]


def test_the_largest_seed_is_taken():
    seed_torch(CPU, 2**63 - 1, "init")
    numpy_generator(2**63 - 1, "order", 0)
