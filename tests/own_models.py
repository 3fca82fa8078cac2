"""Models of somebody's own that remember or draw by other means than torch's layers, for tests of several processes."""

from __future__ import annotations

import os
import random

import numpy as np
import torch
from torch import nn


class Remembering(nn.Module):
    """Buffers beside BatchNorm's, layers that run in half of the passes, and draws of Python and NumPy."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.convolution = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))
        self.instance = nn.InstanceNorm2d(4, track_running_stats=True)
        self.skipped, self.kept = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        nn.init.constant_(self.kept.running_var, 0.7)
        self.head = nn.Linear(4 * 36, num_classes)
        self.register_buffer("level", torch.zeros(4))
        self.register_buffer("passes", torch.tensor(0))

    def train(self, mode: bool = True) -> Remembering:
        super().train(mode)
        self.kept.eval()
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.instance(self.convolution(images))
        if self.training:
            self.level.lerp_(features.detach().mean((0, 2, 3)), 0.1)
            self.passes += 1
            features = features * (1 + 0.1 * random.random()) + 0.1 * float(np.random.random())
        if not self.training or random.random() < 0.5:
            features = self.skipped(features)
        return self.head(self.kept(features - self.level[:, None, None]).flatten(1))


class Drifting(nn.Module):
    """Its weights are moved by a generator of each process."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.flatten, self.head = nn.Flatten(), nn.Linear(192, num_classes)
        self.passes = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += self.training
        if self.passes == 6 and os.environ.get("RANK") == "1":
            with torch.no_grad():
                self.head.bias += 1e-6
        return self.head(self.flatten(images))


class Noisy(torch.optim.SGD):
    """Gradient descent with noise of torch's global generator (Langevin dynamics)."""

    def step(self, closure=None):  # type: ignore[override]
        super().step()
        with torch.no_grad():
            for parameter in (p for group in self.param_groups for p in group["params"]):
                parameter.add_(torch.randn_like(parameter), alpha=1e-3)
