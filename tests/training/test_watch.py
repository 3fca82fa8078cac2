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
from distcls.training.state import Position
from distcls.training.watch import Watch


def make_watch(tmp_path) -> Watch:
    """Of a run that tells nothing."""
    state: Any = SimpleNamespace(step=1, position=Position())
    progress = SimpleNamespace(start=lambda total, done: None, is_time_for=lambda step: False)
    processes = SimpleNamespace(is_main=True, device=torch.device("cpu"))
    run: Any = SimpleNamespace(progress=progress, at=lambda step, phase: None, dir=tmp_path, processes=processes)
    images: Any = SimpleNamespace(image_name=lambda i: f"images/caf\udce9-{i}.jpg")
    return Watch(Config(), state, BatchPlan(10, 4, 2, 9, 0), images, run)


def take_step(watched: Watch, loss: float, norm: float, *of_fp16: float) -> None:
    watched.wait_for(iter([[]]))
    watched.saw(torch.tensor([loss, 0.5, norm, *of_fp16]))
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
    watched = make_watch(tmp_path)
    take_step(watched, 1.0, np.inf, 2.0**-3, 0.0)
    assert watched.state.position.skipped_steps == 1
    with pytest.raises(DivergedError, match=r"still not finite in fp16 with a loss scale of 6\.1e-05.*precision=bf16"):
        take_step(watched, 1.0, np.nan, 2.0**-14, 0.0)


def test_a_forward_pass_that_overflows_in_fp16_does_not_end_the_run_nor_spoil_the_mean_loss(tmp_path):
    watched = make_watch(tmp_path)
    take_step(watched, np.nan, np.nan, 2.0**15, 0.0)
    take_step(watched, 2.0, 1.0, 2.0**15, 1.0)
    assert watched.loss_sum / watched.num_losses == 2.0 and list(watched.last_losses) == [2.0]
    assert watched.state.position.skipped_steps == 1
    with pytest.raises(DivergedError, match="step 0 is not finite"):  # the weights moved
        take_step(watched, np.inf, 1.0, 2.0**15, 1.0)


def test_a_step_is_looked_at_once_the_next_one_is_queued(tmp_path):
    """Never before, and never later: every process decides at the same step."""
    watched = make_watch(tmp_path)
    watched.wait_for(iter([[]]))
    watched.saw(torch.tensor([np.nan, 0.5, 1.0]))
    watched.state.step = 2
    watched.wait_for(iter([[]]))
    with pytest.raises(DivergedError, match="step 0 is not finite"):
        watched.saw(torch.tensor([1.0, 0.5, 1.0]))
