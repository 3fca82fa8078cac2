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
from distcls.runs import resolution
from distcls.runs.resolution import computes_bf16, describe_precision, refuse_other_cut, resolve


def resolved(config: Config, world_size: int, stored: Config | None = None) -> Config:
    processes: Any = SimpleNamespace(
        world_size=world_size, device=torch.device("cpu"), from_main=lambda function: function()
    )
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
    with pytest.raises(UsageError, match=r"runs/a was started with train.micro_batch_size=16.* Start 1, 2 or 4;"):
        refuse_other_cut(variant(), stored, 8, Path("runs/a"))
    with pytest.raises(UsageError, match="or give another run.dir=DIR, and a smaller"):
        refuse_other_cut(variant(run__dir="exp/a"), stored, 8, Path("exp/a"))


def settle(config: Config, device: str, world_size: int = 1, stored: Config | None = None) -> Config:
    processes: Any = SimpleNamespace(
        device=torch.device(device), world_size=world_size, from_main=lambda function: function()
    )
    return resolve(config, stored, Path("runs/x"), processes)


def gpu_of(monkeypatch, generation: int) -> None:
    """A CUDA GPU of this compute capability: 7 is a V100 or T4, 8 an A100."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=generation))
    emulates = "_check_bf16_tensor_supported"
    monkeypatch.setattr(torch.cuda, emulates, lambda _: True)


@pytest.mark.parametrize(
    ("generation", "precision", "told"),
    [(7, "float32", "float32 (this GPU has no bf16 in hardware)"), (8, "bf16", "bf16 (this GPU has it in hardware)")],
)
def test_auto_takes_bf16_where_a_gpu_has_it_in_hardware(monkeypatch, generation, precision, told):
    """torch says that a V100 supports it: it emulates it."""
    gpu_of(monkeypatch, generation)
    assert torch.cuda.is_bf16_supported()
    config = settle(Config(), "cuda")
    assert config.train.precision == precision
    assert describe_precision(config, torch.device("cuda")) == told


def test_bf16_that_is_emulated_is_told(monkeypatch):
    gpu_of(monkeypatch, 7)
    config = variant(train__precision="bf16")
    assert "only emulates it: train.precision=float32 is faster" in describe_precision(config, torch.device("cuda"))


def test_a_precision_that_was_settled_stays(monkeypatch):
    """On whatever GPU the run is resumed."""
    gpu_of(monkeypatch, 8)
    stored = settle(Config(), "cuda")
    gpu_of(monkeypatch, 7)
    assert settle(Config(), "cuda", stored=stored).train.precision == "bf16"


@pytest.mark.parametrize("has_bf16", [False, True])
def test_a_cpu_computes_in_bf16_only_if_a_step_was_timed(monkeypatch, has_bf16):
    monkeypatch.setattr(resolution, "has_bf16", lambda: has_bf16)
    cpu = torch.device("cpu")
    assert computes_bf16(cpu) == has_bf16
    assert settle(Config(), "cpu").train.precision == "float32"
    told = describe_precision(variant(train__precision="float32"), cpu)
    assert told == (
        "float32 (this CPU has bf16 in hardware, but a step of this network is not clearly faster in it)"
        if has_bf16
        else "float32"
    )
    told = describe_precision(variant(train__precision="bf16"), cpu)
    assert told == (
        "bf16 (this CPU has it in hardware, and a step of this network is faster in it)"
        if has_bf16
        else "bf16 (this CPU only emulates it: train.precision=float32 is faster)"
    )
    given = variant(train__precision="float32").noting({"train.precision"})
    assert describe_precision(given, cpu) == "float32"


def test_no_step_is_said_to_have_been_timed_if_none_was(monkeypatch):
    """A run may have begun on a CPU without bf16, and a linear head is not worth timing."""
    cpu, in_float32 = torch.device("cpu"), variant(train__precision="float32")
    monkeypatch.setattr(resolution, "has_bf16", lambda: True)
    assert describe_precision(in_float32, cpu, resumed=True) == "float32 (as when this run first started)"
    only_head = describe_precision(in_float32.replaced({"model.head_only": True}), cpu)
    assert only_head == "float32 (only the head is trained, and bf16 would not be faster)"
    monkeypatch.setattr(resolution, "has_bf16", lambda: False)
    in_bf16 = variant(train__precision="bf16")
    assert describe_precision(in_bf16, cpu, resumed=True) == "bf16 (this CPU only emulates it)"


def test_in_deterministic_mode_the_reason_is_not_speed(monkeypatch):
    monkeypatch.setattr(resolution, "has_bf16", lambda: True)
    told = describe_precision(variant(train__precision="float32", train__deterministic=True), torch.device("cpu"))
    assert told == "float32 (train.precision=bf16 would use this CPU's bf16 hardware)"


def test_sync_batchnorm_of_cpu_processes_is_refused_before_the_first_step():
    config = variant(train__sync_batchnorm=True)
    with pytest.raises(UsageError, match=r"sync_batchnorm=true needs CUDA GPUs, but these 2 processes train on cpu"):
        settle(config, "cpu", world_size=2)
    assert settle(config, "cpu").train.sync_batchnorm  # of one process, it is plain BatchNorm


def test_a_later_start_does_not_change_what_counts_as_given():
    stored = resolved(Config(), 1).noting({"optim.lr"})
    again = resolved(Config().noting({"optim.lr", "train.num_epochs"}), 1, stored)
    assert again.given == {"optim.lr"}
