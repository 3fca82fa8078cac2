"""A small run that has learned something, shared by the tests of exported files."""

from __future__ import annotations

from pathlib import Path

import pytest

from distcls.config.loading import load_config

SETTINGS = ["model.args={hidden: 16}", "train.num_steps=40", "train.num_threads=1", "train.precision=float32"]


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """The folder of a run on digits, 8 × 8 pixels, without its plots, which take longer than training."""
    from distcls.cluster.processes import group_closed
    from distcls.training.loop import train

    folder = tmp_path_factory.mktemp("exported") / "digits"
    with group_closed():
        train(load_config(None, [*SETTINGS, "run.trackers=[]", f"run.dir={folder}"], []), "digits")
    return folder
