"""What is told of steps, and when a run must not go on."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from distcls.config.settings import Config
from distcls.errors import DivergedError
from distcls.plan.batches import BatchPlan
from distcls.training import watch
from distcls.training.watch import Watch


def make_watch(tmp_path, scale: float | None = None) -> Watch:
    """Of a run that tells nothing."""
    scaler = None if scale is None else SimpleNamespace(get_scale=lambda: scale)
    state: Any = SimpleNamespace(step=1, scaler=scaler)
    progress = SimpleNamespace(start=lambda total, done: None, is_time_for=lambda step: False)
    processes = SimpleNamespace(is_main=True)
    run: Any = SimpleNamespace(progress=progress, at=lambda step, phase: None, dir=tmp_path, processes=processes)
    images: Any = SimpleNamespace(image_name=lambda i: f"images/caf\udce9-{i}.jpg")
    return Watch(Config(), state, BatchPlan(10, 4, 2, 9, 0), images, run)


def take_step(watched: Watch, loss: float, norm: float) -> None:
    watched.saw(torch.tensor([loss, 0.5, norm]))
    watched.catch_up("save")


def test_a_step_that_is_not_finite_names_its_images(tmp_path):
    with pytest.raises(DivergedError, match=r"step 0 is not finite: its loss is nan.*diverged-0\.txt\. All up to"):
        take_step(make_watch(tmp_path), np.nan, 1.0)
    lines = (tmp_path / "diverged-0.txt").read_bytes().splitlines()
    assert len(lines) == 5 and lines[2] == b"" and lines[0].startswith(b"images/caf\xe9-")


def test_a_full_disk_does_not_hide_that_a_run_diverged(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(watch, "write_text", full)
    with pytest.raises(DivergedError, match=r"its gradient norm inf\. All up to the last checkpoint is kept"):
        take_step(make_watch(tmp_path), 1.0, np.inf)


def test_fp16_goes_on_through_overflows_but_not_for_ever(tmp_path):
    take_step(make_watch(tmp_path, scale=2.0**-3), 1.0, np.inf)
    with pytest.raises(DivergedError, match=r"still not finite in fp16 with a loss scale of 6\.1e-05.*precision=bf16"):
        take_step(make_watch(tmp_path, scale=2.0**-14), 1.0, np.nan)
