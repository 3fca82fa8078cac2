"""ResNet-9, the small residual network of the DAWNBench CIFAR-10 entries (David Page, "How to train your ResNet")."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from distcls.models.networks.cnn import check_image_size


def _convolution(channels_in: int, channels_out: int, pool: bool = False) -> nn.Sequential:
    layers = [
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pool else []))


class _Residual(nn.Module):
    """x + f(x), where f is two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(_convolution(channels, channels), _convolution(channels, channels))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images + self.convolutions(images)


class _Scale(nn.Module):
    """A constant factor. Without it the initial logits are so large that the loss starts at 20 instead of ln 10."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features * self.factor


def resnet9(num_classes: int, image_size: int, dropout: float = 0.0) -> nn.Sequential:
    """Return ResNet-9, with residual blocks at 128 and 512 channels: 6.6 million parameters, for 8 pixels or more."""
    check_image_size(image_size, 8)
    layers = {
        "stem": _convolution(3, 64),
        "layer1": nn.Sequential(_convolution(64, 128, pool=True), _Residual(128)),
        "layer2": _convolution(128, 256, pool=True),
        "layer3": nn.Sequential(_convolution(256, 512, pool=True), _Residual(512)),
        # Not an adaptive pool, whose backward pass has no deterministic kernel on GPUs.
        "pool": nn.MaxPool2d(image_size // 8),
        "flatten": nn.Flatten(),
        "dropout": nn.Dropout(dropout),
        "scale": _Scale(0.125),
        "head": nn.Linear(512, num_classes),
    }
    return nn.Sequential(OrderedDict(layers))
