"""A model for tests of faults: one process of the run fails in its fifth forward pass."""

from __future__ import annotations

import os
import signal
import time

import torch
from torch import nn


class Faulty(nn.Module):
    """A linear network that raises, hangs, stops answering or is killed on one rank, if a file says so."""

    def __init__(self, num_classes: int, fault: str, rank: int) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))
        self.network(torch.zeros(1, 3, 8, 8))
        self.fault = fault if os.environ.get("RANK", "0") == str(rank) else None
        self.passes = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += self.training
        if self.training and self.passes == 5 and os.path.exists("faulty"):
            self.fail()
        return self.network(images)

    def fail(self) -> None:
        if self.fault == "raises":
            raise ValueError("the fifth forward pass")
        if self.fault == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "hangs":
            time.sleep(1000)
        if self.fault == "runs out of CPU memory":
            torch.empty(2**60, dtype=torch.uint8)
        if self.fault == "runs out of memory":
            raise torch.OutOfMemoryError("tried to allocate 9 GiB")


def make(num_classes: int, fault: str, rank: int) -> nn.Module:
    return Faulty(num_classes, fault, rank)
