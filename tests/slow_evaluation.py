"""A linear model that takes its time in evaluation."""

from __future__ import annotations

import time

import torch
from torch import nn


class Slow(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 8, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not self.training:
            time.sleep(0.05)
        return self.linear(images.flatten(1))


def make(num_classes: int) -> nn.Module:
    return Slow(num_classes)
