"""Pooling over whole feature maps of any size."""

from __future__ import annotations

import torch
from torch import nn


class GlobalAveragePool(nn.Module):
    """The mean over height and width, from (n, C, H, W) to (n, C).

    Not nn.AdaptiveAvgPool2d, whose backward pass has no deterministic kernel on GPUs.
    """

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.mean((-2, -1))
