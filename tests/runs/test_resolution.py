"""What a run settles at its first start, and which processes can share it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from variants import variant

from distcls.config.settings import Config
from distcls.errors import UsageError
from distcls.runs.resolution import refuse_other_cut, resolve


def resolved(config: Config, world_size: int, stored: Config | None = None) -> Config:
    processes: Any = SimpleNamespace(world_size=world_size, device=torch.device("cpu"))
    return resolve(config, stored, Path("runs/a"), processes)


@pytest.mark.parametrize(
    ("batch", "micro", "world_sizes"),
    [(64, 16, (1, 2, 4)), (128, 16, (1, 2, 4, 8)), (256, 32, (1, 2, 4, 8)), (100, 25, (1, 2, 4)), (16, 16, (1,))],
)
def test_the_default_micro_batch_of_a_deterministic_run_depends_on_its_batch_alone(batch, micro, world_sizes):
    config = variant(train__deterministic=True, train__global_batch_size=batch)
    for world_size in world_sizes:
        assert resolved(config, world_size).train.micro_batch_size == micro
    more = 2 * world_sizes[-1]
    with pytest.raises(UsageError, match=rf"{more} processes cannot share: start .*micro_batch_size={batch // more}"):
        resolved(config, more)


def test_the_default_micro_batch_of_a_fast_run_fills_each_process():
    assert [resolved(Config(), world_size).train.micro_batch_size for world_size in (1, 2, 8)] == [64, 32, 8]


def test_what_was_settled_is_kept_on_other_numbers_of_processes():
    stored = resolved(variant(train__deterministic=True, train__micro_batch_size=8), 1)
    again = resolved(variant(train__deterministic=True), 8, stored)
    assert again == stored and again.train.micro_batch_size == 8
    fast = resolved(Config(), 4)
    assert resolved(Config(), 1, fast).train == fast.train


def test_resolving_leaves_what_was_read_as_it_is():
    config = Config()
    resolved(config, 2)
    assert config == Config()


def test_processes_that_cannot_share_its_micro_batches_are_told_how_many_can():
    stored = variant(train__global_batch_size=64, train__micro_batch_size=16)
    for world_size in (1, 2, 4):
        refuse_other_cut(variant(), stored, world_size, Path("runs/a"))
    with pytest.raises(UsageError, match=r"runs/a was begun with train.micro_batch_size=16.* Start 1, 2 or 4;"):
        refuse_other_cut(variant(), stored, 8, Path("runs/a"))
