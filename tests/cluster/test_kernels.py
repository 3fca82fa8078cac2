"""Fast kernels by default, repeatable ones in deterministic mode."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from distcls.cluster.kernels import choose_kernels
from distcls.config.settings import TrainConfig


@pytest.fixture(autouse=True)
def as_it_was():
    kept = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.get_num_threads()
    yield
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = kept[:2]
    torch.set_num_threads(kept[2])
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("deterministic", [False, True])
def test_cudnn_times_its_kernels_unless_the_bits_must_repeat(deterministic, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    processes: Any = SimpleNamespace(device=torch.device("cuda"), local_world_size=1)
    choose_kernels(TrainConfig(deterministic=deterministic), processes)
    assert torch.backends.cudnn.benchmark is not deterministic
    assert torch.are_deterministic_algorithms_enabled() is deterministic
