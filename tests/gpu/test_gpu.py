"""What only a CUDA GPU can show. These wait for a machine that has one: `benchmarks/gpu.sh` runs them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import ledger
import numpy as np
import pytest
import torch
from ranks import read_json
from small_steps import AUGMENT, PLAN, make_config, make_split, make_step
from variants import variant

from distcls.cluster.processes import Processes
from distcls.config.settings import Config
from distcls.data.loading.loader import train_batches
from distcls.training.acceleration import Acceleration
from distcls.training.late_numbers import FinishedStep, LateNumbers

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

SETTINGS = [
    *["model.name=resnet9", "data.image_size=16", *ledger.AUGMENT],
    *["train.num_steps=20", "train.global_batch_size=32", "train.micro_batch_size=8", "train.ema_decay=0.9"],
    *["train.checkpoint_every=4 steps", "train.eval_every=8 steps", "optim.lr=1e-3", "run.trackers=[]"],
]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_a_killed_run_ends_with_the_bits_of_one_never_killed(ranks, precision):
    """In deterministic mode: otherwise cuDNN times its kernels, and two starts may take different ones."""
    settings = [*SETTINGS, f"train.precision={precision}", "train.deterministic=true"]
    ranks.run("train", "--name", "whole", *settings, gpus="0")
    assert read_json(ranks.folder / "runs" / "whole" / "env.json")["device"] == "cuda"
    group = ranks.start("train", "--name", "killed", *settings, gpus="0")
    while not list((ranks.folder / "runs" / "killed").glob("checkpoints/step-*")) and group.alive():
        time.sleep(0.01)
    group.kill()
    ranks.run("train", "--name", "killed", *settings, gpus="0")
    assert digest(ranks, "killed") == digest(ranks, "whole")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_a_step_waits_for_nothing(precision, optimizer):
    """What tests/training/test_late_numbers.py shows on meta tensors, with real copies, streams and a loss scale."""
    check_steps("resnet9", "cuda", precision, optimizer)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_these_steps_run_on_a_cpu(precision, optimizer):
    """Where there is no GPU, this finds what would keep the test above from running on one."""
    check_steps("cnn2", "cpu", precision, optimizer)


def check_steps(model: str, device: str, precision: str, optimizer: str) -> None:
    settings = {"optim__name": optimizer, "optim__fused": True, "train__precision": precision}
    config = variant(make_config(model, **AUGMENT["all"]), **settings)
    with Processes(device) as processes:
        steps = take_steps(config, processes.device)
    assert [f.step for f in steps] == [0, 1, 2, 3]
    assert all(f.seconds > 0 and f.waiting >= 0 and np.isfinite(f.numbers[0]) for f in steps)


def take_steps(config: Config, device: torch.device) -> list[FinishedStep]:
    _, train_step = make_step(config, Acceleration(config.train, device))
    late, found = LateNumbers(device), []
    for step, micro_batches in enumerate(train_batches(make_split(config), PLAN, config.augment, device, 0, 0)):
        late.ask()
        late.begin()
        with waiting_is_an_error(device) if step else nullcontext():  # the first makes what stays
            numbers = train_step(micro_batches)
        found.append(late.put(step, numbers))
    found.append(late.take())
    return [f for f in found if f is not None]


@contextmanager
def waiting_is_an_error(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@needs_gpu
def test_deterministic_mode_repeats_itself(ranks):
    for name in ("a", "b"):
        ranks.run("train", "--name", name, *SETTINGS, "train.deterministic=true", gpus="0")
    assert digest(ranks, "a") == digest(ranks, "b")


def digest(ranks, name: str) -> dict[str, str]:
    return ledger.digest(ranks.folder / "runs" / name, 20)
