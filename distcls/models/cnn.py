"""The convolutional networks of a beginner's tutorial: two blocks, and three."""

from __future__ import annotations

from torch import nn


def _block(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    ]


def _cnn(num_classes: int, image_size: int, channels: list[int], hidden: int, dropout: float) -> nn.Sequential:
    blocks = [
        layer for before, after in zip([3, *channels], channels, strict=False) for layer in _block(before, after)
    ]
    side = max(image_size // 2 ** len(channels), 1)
    return nn.Sequential(
        *blocks,
        nn.AdaptiveAvgPool2d(side) if image_size % 2 ** len(channels) else nn.Identity(),
        nn.Flatten(),
        nn.Linear(channels[-1] * side**2, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(hidden, num_classes),
    )


def cnn2(num_classes: int, image_size: int, hidden: int = 128, dropout: float = 0.2) -> nn.Sequential:
    """Convolutions of 32 and 64 channels with BatchNorm, then a hidden layer: 545 thousand parameters at 32 pixels."""
    return _cnn(num_classes, image_size, [32, 64], hidden, dropout)


def cnn3(num_classes: int, image_size: int, hidden: int = 512, dropout: float = 0.3) -> nn.Sequential:
    """Convolutions of 32, 64 and 128 channels, then a hidden layer of 512: 1.1 million parameters at 32 pixels."""
    return _cnn(num_classes, image_size, [32, 64, 128], hidden, dropout)
