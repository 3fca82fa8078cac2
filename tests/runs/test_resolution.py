"""What a config leaves open is settled once, for the devices that are there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from distcls.config.settings import Config
from distcls.errors import UsageError
from distcls.runs.resolution import describe_precision, resolve


def settle(config: Config, device: str, world_size: int = 1, stored: Config | None = None) -> Config:
    processes: Any = SimpleNamespace(device=torch.device(device), world_size=world_size)
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
    assert describe_precision(config.train, torch.device("cuda")) == told


def test_bf16_that_is_emulated_is_told(monkeypatch):
    gpu_of(monkeypatch, 7)
    config = Config()
    config.train.precision = "bf16"
    assert "only emulates it: train.precision=float32 is faster" in describe_precision(
        config.train, torch.device("cuda")
    )


def test_a_precision_that_was_settled_stays(monkeypatch):
    """On whatever GPU the run is resumed."""
    gpu_of(monkeypatch, 8)
    stored = settle(Config(), "cuda")
    gpu_of(monkeypatch, 7)
    assert settle(Config(), "cuda", stored=stored).train.precision == "bf16"


def test_a_cpu_computes_in_float32():
    config = settle(Config(), "cpu")
    assert config.train.precision == describe_precision(config.train, torch.device("cpu")) == "float32"


def test_sync_batchnorm_of_cpu_processes_is_refused_before_the_first_step():
    config = Config()
    config.train.sync_batchnorm = True
    with pytest.raises(UsageError, match=r"sync_batchnorm=true needs CUDA GPUs, and these 2 processes train on cpu"):
        settle(config, "cpu", world_size=2)
    assert settle(config, "cpu").train.sync_batchnorm  # of one process, it is plain BatchNorm
