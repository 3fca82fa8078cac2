"""Loader workers change nothing: none, two, and two started by `spawn`, as macOS does."""

from __future__ import annotations

import multiprocessing

import ledger
from ranks import Ranks


def use_spawn() -> None:
    multiprocessing.set_start_method("spawn", force=True)


def test_workers_and_how_they_start_change_nothing(ranks: Ranks):
    settings = [
        "train.num_steps=8",
        "train.num_threads=1",
        "augment.pad_crop=1",
        "run.trackers=[]",
        "data.val_fraction=0",
    ]
    paths = {
        "memory": ("4 GB", 0, None),
        "disk": ("0", 0, None),
        "forked": ("0", 2, None),
        "spawned": ("0", 2, use_spawn),
    }
    for name, (cache, workers, setup) in paths.items():
        ranks.run("train", "--name", name, *settings, f"data.cache={cache}", f"data.workers={workers}", setup=setup)
    expected = ledger.digest(ranks.folder / "runs" / "memory", 8)
    for name in paths:
        assert ledger.digest(ranks.folder / "runs" / name, 8) == expected, name
