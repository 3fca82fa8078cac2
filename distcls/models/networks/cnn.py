"""Convolutional networks like those in beginners' tutorials, with two or three blocks and BatchNorm."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from distcls.errors import UsageError
from distcls.models.networks.pooling import GlobalAveragePool


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    )


def _cnn(num_classes: int, image_size: int, channels: list[int], hidden: int, dropout: float) -> nn.Sequential:
    blocks = [_block(before, after) for before, after in pairwise([3, *channels])]
    check_image_size(image_size, 2 ** len(channels))
    side = image_size // 2 ** len(channels)
    layers = {
        "blocks": nn.Sequential(*blocks),
        "flatten": nn.Flatten(),
        "hidden": nn.Linear(channels[-1] * side**2, hidden),
        "relu": nn.ReLU(inplace=True),
        "dropout": nn.Dropout(dropout),
        "head": nn.Linear(hidden, num_classes),
    }
    return nn.Sequential(OrderedDict(layers))


def cnn2(num_classes: int, image_size: int, hidden: int = 128, dropout: float = 0.2) -> nn.Sequential:
    """Return a network with 32 and 64 channels and a hidden layer of 128: 545 thousand parameters at 32 pixels."""
    return _cnn(num_classes, image_size, [32, 64], hidden, dropout)


def cnn3(num_classes: int, image_size: int, hidden: int = 512, dropout: float = 0.3) -> nn.Sequential:
    """Return a network with 32, 64 and 128 channels and a hidden layer of 512: 1.1 million parameters at 32 pixels."""
    return _cnn(num_classes, image_size, [32, 64, 128], hidden, dropout)


def simple_cnn(
    num_classes: int, image_size: int, channels: Sequence[int] = (32, 64, 128), dropout: float = 0.0
) -> nn.Sequential:
    """Return a network with 32, 64 and 128 channels and no hidden layer: 95 thousand parameters at any image size."""
    if not channels:
        raise ValueError("channels=[], expected the channels of one or more blocks")
    check_image_size(image_size, 2 ** len(channels))
    layers = {
        "blocks": nn.Sequential(*[_block(before, after) for before, after in pairwise([3, *channels])]),
        "pool": GlobalAveragePool(),
        "dropout": nn.Dropout(dropout),
        "head": nn.Linear(channels[-1], num_classes),
    }
    return nn.Sequential(OrderedDict(layers))


def check_image_size(image_size: int, smallest: int) -> None:
    """Raise UsageError if a network's pooling would leave nothing of the images."""
    if image_size < smallest:
        raise UsageError(
            f"images of {image_size} pixels are too small for this model: set data.image_size={smallest} or more, "
            "or choose a model.name with fewer blocks."
        )
