"""Loader workers change nothing, with all augmentation on: none, one, two and four, and two started by `spawn`."""

from __future__ import annotations

import multiprocessing

import ledger
import pytest
from ranks import Ranks

SETTINGS = ["train.num_steps=8", "train.num_threads=1", "run.trackers=[]", "data.val_fraction=0"]


def use_spawn() -> None:
    multiprocessing.set_start_method("spawn", force=True)


@pytest.mark.parametrize("transforms", [True, False])
def test_workers_and_how_they_start_change_nothing(ranks: Ranks, transforms: bool):
    """Without transforms of single images, those in memory need no workers and take another path."""
    settings = [*SETTINGS, *ledger.AUGMENT[0 if transforms else 1 :]]
    paths = {"memory": ("4 GB", 0, None), "disk, forked": ("0", 2 - transforms, None)}
    if transforms:
        paths |= {"memory, forked": ("4 GB", 4, None), "memory, spawned": ("4 GB", 2, use_spawn)}
    started = [
        ranks.start("train", "--name", name, *settings, f"data.cache={cache}", f"data.workers={workers}", setup=setup)
        for name, (cache, workers, setup) in paths.items()
    ]
    for group in started:
        group.finish()
    expected = ledger.digest(ranks.folder / "runs" / "memory", 8)
    for name in paths:
        assert ledger.digest(ranks.folder / "runs" / name, 8) == expected, name


@pytest.mark.parametrize("command", ["train", "train --dry-run"])
def test_a_transform_that_is_not_there_is_told_before_training(ranks: Ranks, command: str):
    output = ranks.run(*command.split(), "augment.transforms=[{name: RandAugmen}]", *SETTINGS, expect=2)
    assert "Did you mean 'RandAugment'?" in output and "Traceback" not in output
